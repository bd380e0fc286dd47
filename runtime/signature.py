"""What a package takes and gives: names, shapes with their symbolic dimensions, data types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Dim = int | str
"""A length, or the name of a symbolic dimension."""


@dataclass(frozen=True)
class Tensor:
    """An input or output."""

    name: str
    shape: tuple[Dim, ...]
    dtype: str
    """As numpy names it."""


@dataclass(frozen=True)
class Signature:
    """All inputs in the order of the call, all outputs, and the bounds of every symbolic dimension."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    dims: Mapping[str, tuple[int, int]]
    """Least and most of each symbolic dimension."""
