"""What runs packages: one module for each kind of target.

Such a module has
  DEVICES                                 names for `run --device`, the usual one first;
  open_package(package, device, threads)  the executor of a package of that kind.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from espalier.errors import UsageError

RUNTIMES = {"llvm": "espalier.runtime.executor", "fpga": "espalier.runtime.fpga"}
"""By the kind of target."""


def runtime(kind: str, device: str | None) -> Any:
    """The module that runs packages of `kind` on `device`, None being its usual one.

    Raises UsageError for a device of another kind.
    """
    found = import_module(RUNTIMES[kind])
    if device is not None and device not in found.DEVICES:
        raise UsageError(
            f"device {device!r} runs no package for the kind {kind!r}",
            hint=f"give --device {' or '.join(found.DEVICES)}, or leave it out",
        )
    return found
