"""Espalier: from a pruned Transformer in ONNX to kernels."""

from __future__ import annotations

from importlib import import_module
from typing import Any

# name -> module: everything is imported on first use, so that `import espalier` costs nothing
_LAZY = {
    "inspect": "espalier.api",
    "compile": "espalier.api",
    "tune": "espalier.api",
    "Package": "espalier.package",
    "EspalierError": "espalier.errors",
}

__all__ = ["EspalierError", "Package", "compile", "inspect", "tune"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("tvm-espalier")
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'espalier' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
