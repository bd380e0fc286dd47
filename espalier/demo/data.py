"""What ships inside: a Vision Transformer of handwritten digits, dense and pruned, and its test images."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np

INPUT, OUTPUT = "images", "logits"
TOKENS = 16
"""Patches of an image."""


def pruned_model() -> Path:
    """HP-pruned to 90 % and retrained."""
    return _path("digits-hp90.onnx")


def dense_model() -> Path:
    """The same network before pruning."""
    return _path("digits-dense.onnx")


def test_set() -> tuple[np.ndarray, np.ndarray]:
    """Images f32 `[360, 8, 8]` that neither model was trained on, and their digits int64 `[360]`."""
    with np.load(_path("digits-test.npz"), allow_pickle=False) as arrays:
        return arrays["images"], arrays["labels"]


def _path(name: str) -> Path:
    return Path(str(resources.files("espalier.demo").joinpath(name)))
