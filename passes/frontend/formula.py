"""Integers that are formulas of dimensions and positions: arithmetic on them, and their value at run time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from espalier.passes.frontend import size as sz
from espalier.passes.frontend.size import Apply, Atom, Dim, Iota, iota
from espalier.passes.frontend.values import (
    Constant,
    Index,
    Shape,
    Sizes,
    Value,
    as_index,
    extents,
    settle,
    small,
)

if TYPE_CHECKING:
    from espalier.passes.frontend.build import Builder


def _truncdiv(a: Dim, b: Dim) -> Dim | None:
    if isinstance(a, int) and isinstance(b, int) and b:
        return abs(a) // abs(b) * (1 if (a >= 0) == (b > 0) else -1)
    return sz.floordiv(a, b) if sz.at_least(a, 0) and sz.at_least(b, 1) else None


def _floordiv(a: Dim, b: Dim) -> Dim | None:
    return sz.floordiv(a, b) if b != 0 else None


def _mod(a: Dim, b: Dim) -> Dim | None:
    return sz.mod(a, b) if b != 0 else None


def _where(c: Dim, a: Dim, b: Dim) -> Dim:
    return c * a + (1 - c) * b


def _power(a: Dim, n: Dim) -> Dim | None:
    return sz.product([a] * n) if isinstance(n, int) and 0 <= n <= 8 else None


def _truth(a: Dim) -> Dim:
    return 1 - sz.equal(a, 0)


ARITHMETIC: dict[str, Callable[..., Dim | None]] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "negative": lambda a: -a,
    "divide": _truncdiv,
    "floor_divide": _floordiv,
    "floor_mod": _mod,
    "power": _power,
    "minimum": sz.minimum,
    "maximum": sz.maximum,
    "less_equal": sz.less_equal,
    "less": lambda a, b: sz.less_equal(a + 1, b),
    "greater_equal": lambda a, b: sz.less_equal(b, a),
    "greater": lambda a, b: sz.less_equal(b + 1, a),
    "equal": sz.equal,
    "logical_and": lambda a, b: a * b,
    "logical_or": lambda a, b: a + b - a * b,
    "logical_xor": lambda a, b: a + b - 2 * (a * b),
    "logical_not": lambda a: 1 - a,
    "where": _where,
}
PREDICATES = frozenset(["less_equal", "less", "greater_equal", "greater", "equal"])


def elementwise(name: str, values: Sequence[Value], attrs: dict[str, Any], shape: Shape) -> Value | None:
    """The result of an elementwise operator on sizes and indices, where a formula says it."""
    if any(np.dtype(value.dtype).kind not in "iub" for value in values if value.dtype != "bfloat16"):
        return None
    if any(value.dtype == "bfloat16" for value in values):
        return None
    if name == "cast":
        dtype = attrs["dtype"]
        if dtype not in ("int64", "int32", "bool"):
            return None
        function: Callable[..., Dim | None] = (
            _truth if dtype == "bool" and values[0].dtype != "bool" else lambda a: a
        )
    else:
        function = ARITHMETIC.get(name, lambda *_: None)
        boolean = name in PREDICATES or name.startswith("logical")
        dtype = "bool" if boolean else values[1 if name == "where" else 0].dtype
    if all(isinstance(value, Sizes | Constant) for value in values) and any(
        isinstance(value, Sizes) for value in values
    ):
        arrays = [value.array.astype(object) for value in values]  # pyright: ignore[reportAttributeAccessIssue]
        arrays = [
            np.vectorize(int, otypes=[object])(a) if a.size and isinstance(a.reshape(-1)[0], bool) else a
            for a in arrays
        ]
        flat = [np.broadcast_to(array, extents(shape)).reshape(-1) for array in arrays]
        results = [function(*items) for items in zip(*flat, strict=True)]
        if any(result is None for result in results):
            return None
        array = np.empty(len(results), dtype=object)
        array[:] = results
        return small(array.reshape(extents(shape)), dtype)
    if not any(isinstance(value, Index) for value in values):
        return None
    indices = [as_index(value) for value in values]
    if any(index is None for index in indices):
        return None
    result = function(*(index.expr for index in indices if index is not None))
    return None if result is None else settle(Index(shape, result, dtype))


def squeezed(value: Value) -> Index | None:
    """A value as one column of coordinates: a formula whose last extent is 1."""
    index = as_index(value)
    return index if index is not None and index.shape and index.shape[-1] == 1 else None


def move(expr: Dim, axes: dict[int, Dim]) -> Dim:
    """The formula with the position of each axis replaced."""

    def change(atom: Atom) -> Dim:
        return axes.get(atom.axis, sz.of(atom)) if isinstance(atom, Iota) else sz.of(atom)

    return sz.replace(expr, change)


def reshape(value: Index, shape: Shape) -> Value | None:
    """The formula after a reshape that only adds or drops axes of extent 1, else None."""
    old = [axis for axis, n in enumerate(value.shape) if n != 1]
    new = [axis for axis, n in enumerate(shape) if n != 1]
    if [value.shape[axis] for axis in old] != [shape[axis] for axis in new]:
        return None
    table = {a - len(value.shape): iota(b - len(shape), shape[b]) for a, b in zip(old, new, strict=True)}
    return settle(Index(shape, move(value.expr, table), value.dtype))


def permute(value: Index, axes: Sequence[int]) -> Index:
    """The formula with its axes in another order."""
    rank = len(axes)
    shape = tuple(value.shape[axis] for axis in axes)
    table = {old - rank: iota(new - rank, shape[new]) for new, old in enumerate(axes)}
    return Index(shape, move(value.expr, table), value.dtype)


def cut(value: Index, attrs: dict[str, Any]) -> Value:
    """The formula of a slice."""
    rank = len(value.shape)
    shape = list(value.shape)
    table: dict[int, Dim] = {}
    for axis, begin, end, stride in zip(
        attrs["axes"], attrs["begins"], attrs["ends"], attrs["strides"], strict=True
    ):
        shape[axis] = sz.floordiv(end - begin + stride - 1, stride)
        table[axis - rank] = begin + iota(axis - rank, shape[axis]) * stride
    return settle(Index(tuple(shape), move(value.expr, table), value.dtype))


def row_major(shape: Shape) -> Dim:
    """The flat position of an element of a tensor, as a formula of its coordinates."""
    total: Dim = 0
    for axis in range(-len(shape), 0):
        total = total + iota(axis, shape[axis]) * sz.product(shape[axis + 1 :] if axis < -1 else ())
    return total


def compute(build: Builder, value: Index) -> Value:
    """The formula evaluated at run time, no larger than the axes it depends on."""
    if value.dtype == "bool":
        return build.broadcast_to(_boolean(build, value.expr, len(value.shape)), value.shape)
    result = _integer(build, value.expr, len(value.shape))
    return build.broadcast_to(build("cast", result, dtype=value.dtype), value.shape)


def _boolean(build: Builder, expr: Dim, rank: int) -> Value:
    if isinstance(expr, int):
        return build.const(bool(expr), "bool")
    complement = 1 - expr
    for candidate, negate in ((expr, False), (complement, True)):
        pairs = list(sz.terms(candidate))
        if len(pairs) != 1 or pairs[0][1] != 1:
            continue
        found = [_atom(build, atom, rank) for atom, _ in pairs[0][0]]
        if not all(part.dtype == "bool" for part in found):
            continue
        result = found[0]
        for part in found[1:]:
            result = build("logical_and", result, part)
        return build("logical_not", result) if negate else result
    return build("cast", _integer(build, expr, rank), dtype="bool")


def _integer(build: Builder, expr: Dim, rank: int) -> Value:
    constant: Dim = 0
    moving: list[tuple[tuple[tuple[Atom, int], ...], int]] = []
    for monomial, factor in sz.terms(expr):
        if any(_moves(atom) for atom, _ in monomial):
            moving.append((monomial, factor))
        else:
            part: Dim = factor
            for atom, power in monomial:
                for _ in range(power):
                    part = part * sz.of(atom)
            constant = constant + part
    if not moving:
        return build.scalar(constant, "int64")
    if len(moving) == 1 and moving[0][1] == 1 and len(moving[0][0]) == 1:
        atom, power = moving[0][0][0]
        if isinstance(atom, Iota) and power == 1:
            return _ramp(build, atom, constant, rank)
    total: Value | None = None
    for monomial, factor in moving:
        product: Value | None = None
        for atom, power in monomial:
            for _ in range(power):
                one = build("cast", _atom(build, atom, rank), dtype="int64")
                product = one if product is None else build("multiply", product, one)
        assert product is not None
        if factor != 1:
            product = build("multiply", product, build.const(factor, "int64"))
        total = product if total is None else build("add", total, product)
    assert total is not None
    return total if constant == 0 else build("add", total, build.scalar(constant, "int64"))


def _moves(atom: Atom) -> bool:
    if isinstance(atom, Iota):
        return True
    return isinstance(atom, Apply) and any(_moves(inner) for arg in atom.args for inner in sz.atoms(arg))


def _ramp(build: Builder, atom: Iota, start: Dim, rank: int) -> Value:
    line = build("arange", start=start, stop=start + atom.extent, dtype="int64")
    return build.reshape(line, (atom.extent, *([1] * (-atom.axis - 1))))


def _atom(build: Builder, atom: Atom, rank: int) -> Value:
    if isinstance(atom, Iota):
        return _ramp(build, atom, 0, rank)
    if not _moves(atom):
        scalar = build.scalar(sz.of(atom), "int64")
        truth = isinstance(atom, Apply) and atom.name in sz.TRUTHS
        return build("cast", scalar, dtype="bool") if truth else scalar
    assert isinstance(atom, Apply)
    if atom.name in sz.TRUTHS:
        below, above = _split(atom.args[0])
        name = "less_equal" if atom.name == "nonneg" else "equal"
        return build(name, _integer(build, below, rank), _integer(build, above, rank))
    name = {"floordiv": "floor_divide", "mod": "floor_mod", "min": "minimum", "max": "maximum"}[atom.name]
    a, b = atom.args
    return build(name, _integer(build, a, rank), _integer(build, b, rank))


def _split(gap: Dim) -> tuple[Dim, Dim]:
    """Two sums a, b of positive terms with gap = b - a."""
    below: Dim = 0
    above: Dim = 0
    for monomial, factor in sz.terms(gap):
        part: Dim = abs(factor)
        for atom, power in monomial:
            for _ in range(power):
                part = part * sz.of(atom)
        if factor < 0:
            below = below + part
        else:
            above = above + part
    return below, above
