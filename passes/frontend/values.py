"""What a value of the graph is known to be while the graph is converted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from espalier.passes.frontend.size import Atom, Dim, Iota, iota, of, replace

Shape: TypeAlias = tuple[Dim, ...]


@dataclass(frozen=True, eq=False)
class Constant:
    """Known numbers. `source` is the ONNX initializer or Constant node that the bytes come from."""

    array: np.ndarray
    source: str | None = None

    @property
    def shape(self) -> Shape:
        return self.array.shape

    @property
    def dtype(self) -> str:
        return str(self.array.dtype)


@dataclass(frozen=True, eq=False)
class Sizes:
    """A few integers that depend on the dimensions: an object array of `Dim`."""

    array: np.ndarray
    dtype: str

    @property
    def shape(self) -> Shape:
        return self.array.shape


@dataclass(frozen=True, eq=False)
class Index:
    """Integers or truth values that are a formula of the position: `expr` over `Iota` atoms of the axes."""

    shape: Shape
    expr: Dim
    dtype: str


@dataclass(frozen=True, eq=False)
class Tensor:
    """What a plain operator computes at run time, or an input of the model."""

    shape: Shape
    dtype: str
    name: str
    op: Op | None = None


@dataclass(frozen=True, eq=False)
class Broadcast:
    """A tensor or constant seen in a larger shape; elementwise operators look through it."""

    base: Tensor | Constant
    shape: Shape

    @property
    def dtype(self) -> str:
        return self.base.dtype


@dataclass(frozen=True, eq=False)
class Stack:
    """Formulas side by side on a last axis: the coordinates of a gather."""

    parts: tuple[Index, ...]

    @property
    def shape(self) -> Shape:
        return (*self.parts[0].shape[:-1], len(self.parts))

    @property
    def dtype(self) -> str:
        return self.parts[0].dtype


Value: TypeAlias = Constant | Sizes | Index | Tensor | Broadcast | Stack


@dataclass(frozen=True, eq=False)
class Op:
    """One plain operator. `node` names the ONNX node it came from."""

    name: str
    inputs: tuple[Tensor | Constant, ...]
    attrs: dict[str, object]
    node: str


@dataclass(frozen=True)
class Plain:
    """A converted graph: plain operators in order, all shapes known."""

    inputs: list[Tensor]
    ops: list[Tensor]
    outputs: list[tuple[str, Tensor | Constant]]
    limits: dict[str, int] = field(default_factory=dict)


def extents(shape: Sequence[Dim]) -> tuple[int, ...]:
    """A shape without symbols, as plain integers."""
    assert all(isinstance(n, int) for n in shape), shape
    return tuple(n for n in shape if isinstance(n, int))


def dims(value: Value) -> list[Dim] | None:
    """The integers of a 0-D or 1-D shape-like value, when they are known."""
    if isinstance(value, Constant) and value.array.dtype.kind in "iub" and value.array.ndim <= 1:
        return [int(n) for n in value.array.reshape(-1)]
    if isinstance(value, Sizes):
        return list(value.array.reshape(-1))
    if isinstance(value, Index) and all(n == 1 for n in value.shape):
        return [value.expr]
    return None


def small(array: np.ndarray, dtype: str) -> Constant | Sizes:
    """An object array as a constant where all of it is known."""
    if all(isinstance(n, int) for n in array.reshape(-1)):
        return Constant(array.astype(dtype))
    return Sizes(array, dtype)


def settle(value: Index) -> Constant | Sizes | Index:
    """An index without positions and of one element as the number it is."""
    if all(n == 1 for n in value.shape) and not has_iota(value.expr):
        array = np.empty((1,) * len(value.shape), dtype=object)
        array[...] = value.expr
        return small(array, value.dtype)
    return value


def has_iota(expr: Dim) -> bool:
    """Whether an expression depends on a position."""
    found = False

    def look(atom: Atom) -> Dim:
        nonlocal found
        found = found or isinstance(atom, Iota)
        return of(atom)

    replace(expr, look)
    return found


def as_index(value: Value) -> Index | None:
    """An integer value as a formula of the position, where it is one."""
    if isinstance(value, Index):
        return value
    if isinstance(value, Sizes) and value.array.size == 1:
        return Index(value.shape, value.array.reshape(-1)[0], value.dtype)
    if isinstance(value, Broadcast) and isinstance(value.base, Constant) and value.base.array.size == 1:
        base = as_index(value.base)
        return None if base is None else Index(value.shape, base.expr, value.dtype)
    if not isinstance(value, Constant) or value.array.dtype.kind not in "ib":
        return None
    array = value.array
    if array.size == 0:
        return None
    first = int(array.reshape(-1)[0])
    long = [axis for axis, n in enumerate(array.shape) if n > 1]
    if not long or (array == array.reshape(-1)[0]).all():
        return Index(value.shape, first, value.dtype)
    for axis in long:
        step = int(np.moveaxis(array, axis, 0)[1].reshape(-1)[0]) - first
        ramp = first + step * np.arange(array.shape[axis])
        if (array == ramp.reshape([-1 if a == axis else 1 for a in range(array.ndim)])).all():
            extent = array.shape[axis]
            return Index(value.shape, first + iota(axis - array.ndim, extent) * step, value.dtype)
    return None
