"""Reading an ONNX file: every check before anything in it is trusted."""

from __future__ import annotations

from pathlib import Path

import onnx

from espalier.errors import ModelError


def read_model(path: str | Path) -> onnx.ModelProto:
    """The model in an ONNX file. Raises ModelError."""
    path = Path(path)
    if not path.exists():
        raise ModelError(f"{path}: no such file", hint="give the path of an ONNX file")
    return onnx.load(path)
