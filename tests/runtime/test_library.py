"""TVM's runtime library where it is not."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

import pytest

from espalier.errors import UnavailableError
from espalier.runtime import library

pytestmark = pytest.mark.unit


def test_the_library_lies_in_the_wheel() -> None:
    assert library.library_path().name == "libtvm_runtime.so"


def test_no_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    with pytest.raises(UnavailableError, match="apache-tvm is not installed") as caught:
        library.library_path()
    assert caught.value.hint == "pip install apache-tvm==0.27.0.post1 apache-tvm-ffi==0.1.14.post1"


def test_a_wheel_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "LIBRARY", "tvm/lib/libabsent.so")
    with pytest.raises(UnavailableError, match=r"libabsent\.so is missing"):
        library.library_path()


@pytest.mark.parametrize("blocked", [True, False])
def test_a_library_that_cannot_be_loaded(
    blocked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "libtvm_runtime.so"
    broken.write_text("no library")
    monkeypatch.setattr(library, "library_path", lambda: broken)
    if blocked:
        monkeypatch.setitem(sys.modules, "tvm_ffi", None)
    with pytest.raises(UnavailableError, match="TVM's runtime cannot be loaded"):
        library.ffi.__wrapped__()


def test_a_hidden_module_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    with library.without("colorsys"), pytest.raises(ImportError):
        import colorsys
    import colorsys

    with library.without("colorsys"):
        assert sys.modules["colorsys"] is colorsys
