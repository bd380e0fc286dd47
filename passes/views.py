"""Seeing through operators that only pick a block of a tensor, or move nothing."""

from __future__ import annotations

from dataclasses import dataclass

import tvm
from tvm import relax

from espalier.passes.graph import Scope, axes_of, dims


@dataclass(frozen=True)
class View:
    """Block number `place` of the `count` equal blocks that `source` consists of, in the order of memory."""

    source: relax.Expr
    place: int = 0
    count: int = 1


def view(value: relax.Expr, scope: Scope) -> View:
    """The largest tensor that holds a value as one of its blocks; the value itself if there is no other."""
    found = View(value)
    while (step := _step(found.source, scope)) is not None:
        found = View(step.source, step.place * found.count + found.place, step.count * found.count)
    return found


def _step(value: relax.Expr, scope: Scope) -> View | None:
    """Through one operator."""
    call = scope.call(value, "reshape", "expand_dims", "squeeze")
    if call is not None:
        return View(call.args[0])
    call = scope.call(value, "permute_dims")
    if call is not None:
        return View(call.args[0]) if moves_nothing(call) else None
    call = scope.call(value, "strided_slice")
    if call is not None:
        return _slice(call)
    item = scope.value(value)
    if isinstance(item, relax.TupleGetItem):
        split = scope.call(item.tuple_value, "split")
        return None if split is None else _part(split, item.index)
    return None


def moves_nothing(permute: relax.Call) -> bool:
    """Whether a permutation leaves the axes that are longer than 1 in their order."""
    shape = dims(permute.args[0])
    kept = [axis for axis in axes_of(permute) if shape[axis] != 1]
    return kept == sorted(kept)


def _slice(call: relax.Call) -> View | None:
    """A slice of one axis that no longer axis comes before, into as many equal parts."""
    axes, begin, end, *strides = (_numbers(arg) for arg in call.args[1:])
    if None in (axes, begin, end) or len(axes) != 1 or any(step != [1] for step in strides):
        return None
    return _block(call.args[0], axes[0], begin[0], end[0])


def _part(split: relax.Call, index: int) -> View | None:
    """One of the equal parts that an axis is split into."""
    sections, axis = split.attrs.indices_or_sections, int(split.attrs.axis)
    if not isinstance(sections, int | tvm.tirx.IntImm):
        return None
    extent = dims(split.args[0])[axis]
    if not isinstance(extent, int) or extent % int(sections):
        return None
    size = extent // int(sections)
    return _block(split.args[0], axis, index * size, (index + 1) * size)


def _block(source: relax.Expr, axis: int, begin: int, end: int) -> View | None:
    shape = dims(source)
    axis %= len(shape)
    extent, size = shape[axis], end - begin
    before = all(dim == 1 for dim in shape[:axis])
    if not before or not isinstance(extent, int) or not 0 <= begin < end <= extent:
        return None
    return View(source, begin // size, extent // size) if begin % size == 0 == extent % size else None


def _numbers(value: relax.Expr) -> list[int] | None:
    """The integers of a tuple of them; None where one is not known."""
    if not all(isinstance(field, tvm.tirx.IntImm) for field in value.fields):
        return None
    return [int(field) for field in value.fields]
