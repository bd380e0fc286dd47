"""TVM's runtime library, loaded without the compiler and without `import tvm` (which takes seconds).

The library lies in the apache-tvm wheel; tvm_ffi talks to it.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from pathlib import Path
from types import ModuleType

from espalier.errors import UnavailableError

LIBRARY = "tvm/lib/libtvm_runtime.so"
INSTALL = "pip install apache-tvm==0.27.0.post1 apache-tvm-ffi==0.1.14.post1"


@cache
def ffi() -> ModuleType:
    """The module tvm_ffi, with TVM's runtime loaded.

    Raises UnavailableError where either is not installed.
    """
    # TVM pins its caller's thread to cores otherwise, which would slow everything else in the process
    os.environ.setdefault("TVM_BIND_THREADS", "0")
    try:
        with without("torch"):
            import tvm_ffi
        ctypes.CDLL(str(library_path()), ctypes.RTLD_GLOBAL)
    except (ImportError, OSError) as error:
        raise UnavailableError(f"TVM's runtime cannot be loaded: {error}", hint=INSTALL) from None
    return tvm_ffi


def library_path() -> Path:
    """Where libtvm_runtime.so lies.

    Raises UnavailableError where it is not installed.
    """
    try:
        path = Path(str(metadata.distribution("apache-tvm").locate_file(LIBRARY)))
    except metadata.PackageNotFoundError:
        raise UnavailableError("the package apache-tvm is not installed", hint=INSTALL) from None
    if not path.is_file():
        raise UnavailableError(f"TVM's runtime library {path} is missing", hint=INSTALL)
    return path


@contextmanager
def without(module: str) -> Iterator[None]:
    """Hides a module not imported yet: tvm_ffi imports torch where it can, which takes two seconds."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[module]
