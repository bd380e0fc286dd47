"""Linking needs a C++ compiler, and says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from espalier.errors import UnavailableError
from espalier.targets.parse import parse_target

pytestmark = pytest.mark.compile


def build() -> bytes:
    from tvm import relax

    from espalier.codegen.llvm import build as build_library

    x = relax.Var("x", relax.TensorType((4,), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            y = builder.emit_output(relax.op.add(x, relax.const(np.ones(4, "float32"))))
        builder.emit_func_output(y)
    return build_library(builder.get(), parse_target("x86-64-v2")).library


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("CXX", "CC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnavailableError, match="no C\\+\\+ compiler is on the PATH") as caught:
        build()
    assert "apt-get install g++" in caught.value.hint


def test_with_a_broken_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/bin/false")
    with pytest.raises(UnavailableError, match="linking failed: ") as caught:
        build()
    assert "apt-get install g++" in caught.value.hint
    monkeypatch.delenv("CXX")
    assert build().startswith(b"\x7fELF")
