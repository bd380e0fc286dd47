"""Operators that move elements and compute nothing: reshape, transpose, slice, gather, concat, pad."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from espalier.passes.frontend import formula
from espalier.passes.frontend import size as sz
from espalier.passes.frontend.build import Builder
from espalier.passes.frontend.convert.registry import Node, converts
from espalier.passes.frontend.interval import interval
from espalier.passes.frontend.plain import EqualDims, axes_of, broadcast, show
from espalier.passes.frontend.size import Dim, iota
from espalier.passes.frontend.values import (
    Constant,
    Index,
    Shape,
    Sizes,
    Stack,
    Value,
    as_index,
    settle,
    small,
)


@converts("Identity")
def identity(build: Builder, node: Node, x: Value) -> Value:
    return x


@converts("Dropout", inputs=(1, 3))
def dropout(build: Builder, node: Node, x: Value, ratio: Value | None, training: Value | None) -> list[Value]:
    if training is not None and build.array(training, "training_mode").any():
        raise build.fail("Dropout in training mode", "export the model in evaluation mode")
    return [x]


@converts("Reshape", since=5, inputs=(2, 2))
def reshape(build: Builder, node: Node, x: Value, shape: Value) -> Value:
    target = build.dims(shape, "the shape of Reshape")
    if not node.get("allowzero", 0):
        if any(n == 0 and axis >= len(x.shape) for axis, n in enumerate(target)):
            raise build.fail(
                f"Reshape to {target} copies an axis that {show(x.shape)} lacks", "the model is damaged"
            )
        target = [x.shape[axis] if n == 0 else n for axis, n in enumerate(target)]
    return build.reshape(x, fill_one(build, x.shape, target))


def fill_one(build: Builder, shape: Shape, target: Sequence[Dim]) -> list[Dim]:
    """A target shape with its -1 resolved."""
    unknown = [axis for axis, n in enumerate(target) if isinstance(n, int) and n == -1]
    bad = [n for n in target if isinstance(n, int) and n < 1 and n != -1]
    if len(unknown) > 1 or bad:
        raise build.fail(
            f"reshape of {show(shape)} to {[str(n) for n in target]}",
            "empty and negative extents are not supported",
        )
    result = list(target)
    if unknown:
        total, known = (
            sz.product(shape),
            sz.product(n for axis, n in enumerate(target) if axis not in unknown),
        )
        if sz.divide_exact(total, known) is None:
            for have, want in zip(shape, target, strict=False):
                if have != want and sz.name_of(have) and (name := sz.name_of(want)):
                    raise EqualDims(name, have)
        result[unknown[0]] = sz.floordiv(total, known)
    return result


@converts("Flatten")
def flatten(build: Builder, node: Node, x: Value) -> Value:
    axis = node.get("axis", 1)
    if not -len(x.shape) <= axis <= len(x.shape):
        raise build.fail(f"Flatten at axis {axis} of {len(x.shape)} dimensions", "the model is damaged")
    axis = axis + len(x.shape) if axis < 0 else axis
    return build.reshape(x, (sz.product(x.shape[:axis]), sz.product(x.shape[axis:])))


@converts("Transpose")
def transpose(build: Builder, node: Node, x: Value) -> Value:
    rank = len(x.shape)
    perm = node.get("perm", list(range(rank))[::-1])
    if sorted(perm) != list(range(rank)):
        raise build.fail(f"Transpose by {perm} of {rank} dimensions", "the model is damaged")
    return build.permute(x, perm)


@converts("Unsqueeze", inputs=(1, 2))
def unsqueeze(build: Builder, node: Node, x: Value, axes: Value | None) -> Value:
    chosen = (
        node.attrs["axes"]
        if axes is None
        else build.array(axes, "the axes of Unsqueeze").reshape(-1).tolist()
    )
    rank = len(x.shape) + len(chosen)
    where = axes_of(chosen, rank)
    rest = iter(x.shape)
    return build.reshape(x, [1 if axis in where else next(rest) for axis in range(rank)])


@converts("Squeeze", inputs=(1, 2))
def squeeze(build: Builder, node: Node, x: Value, axes: Value | None) -> Value:
    if axes is None and "axes" not in node.attrs:
        if any(isinstance(n, sz.Size) for n in x.shape):
            raise build.fail(f"Squeeze of all unit axes of {show(x.shape)}", "name the axes when exporting")
        where: Sequence[int] = [axis for axis, n in enumerate(x.shape) if n == 1]
    else:
        chosen = (
            node.attrs["axes"]
            if axes is None
            else build.array(axes, "the axes of Squeeze").reshape(-1).tolist()
        )
        where = axes_of(chosen, len(x.shape))
    for axis in where:
        name = sz.name_of(x.shape[axis])
        if name is not None:
            raise EqualDims(name, 1)
        if x.shape[axis] != 1:
            raise build.fail(
                f"Squeeze of axis {axis} of {show(x.shape)}, expected an extent of 1", "the model is damaged"
            )
    return build.reshape(x, [n for axis, n in enumerate(x.shape) if axis not in where])


@converts("Expand", inputs=(2, 2))
def expand(build: Builder, node: Node, x: Value, shape: Value) -> Value:
    target = build.dims(shape, "the shape of Expand")
    return build.broadcast_to(x, broadcast(x.shape, tuple(target)))


@converts("Tile", inputs=(2, 2))
def tile(build: Builder, node: Node, x: Value, repeats: Value) -> Value:
    counts = build.dims(repeats, "the repeats of Tile")
    if len(counts) != len(x.shape):
        raise build.fail(f"Tile of {show(x.shape)} by {len(counts)} counts", "the model is damaged")
    shape = [a if n == 1 else n for a, n in zip(counts, x.shape, strict=True)]
    if all(n == 1 or count == 1 for n, count in zip(x.shape, counts, strict=True)):
        return build.broadcast_to(x, shape)
    # [n] -> [1, n] -> [count, n] -> [count * n] along every repeated axis
    inner, outer = [], []
    for n, count in zip(x.shape, counts, strict=True):
        inner += [1, n]
        outer += [count, n]
    wide = build.broadcast_to(build.reshape(x, inner), outer)
    return build.reshape(wide, [n * count for n, count in zip(x.shape, counts, strict=True)])


@converts("Concat", inputs=(1, 4096))
def concat(build: Builder, node: Node, *values: Value | None) -> Value:
    given = [value for value in values if value is not None]
    (axis,) = axes_of([node.attrs["axis"]], len(given[0].shape))
    given = [v for v in given if not (isinstance(v, Constant) and v.array.size == 0)] or given[:1]
    return build.concat(given, axis)


@converts("Split", inputs=(1, 2))
def split(build: Builder, node: Node, x: Value, parts: Value | None) -> list[Value]:
    (axis,) = axes_of([node.get("axis", 0)], len(x.shape))
    extent = x.shape[axis]
    if parts is not None or "split" in node.attrs:
        counts: list[Dim] = node.attrs["split"] if parts is None else build.dims(parts, "the parts of Split")
    else:
        number = node.get("num_outputs", len(node.outputs))
        part = sz.floordiv(extent + number - 1, number)
        counts = [part] * (number - 1) + [extent - part * (number - 1)]
    if sz.at_least(sum(counts) - extent, 1) or sz.at_least(extent - sum(counts), 1):
        raise build.fail(f"Split of {extent} into {[str(n) for n in counts]}", "the model is damaged")
    results, begin = [], 0
    for count in counts:
        results.append(build.slice(x, [axis], [begin], [begin + count], [1]))
        begin = begin + count
    return results


@converts("Slice", inputs=(1, 5))
def slice_(
    build: Builder,
    node: Node,
    x: Value,
    starts: Value | None,
    ends: Value | None,
    axes: Value | None,
    steps: Value | None,
) -> Value:
    if starts is None or ends is None:
        begins, finishes, chosen = node.attrs["starts"], node.attrs["ends"], node.get("axes")
    else:
        begins, finishes = build.dims(starts, "the starts of Slice"), build.dims(ends, "the ends of Slice")
        chosen = None if axes is None else build.array(axes, "the axes of Slice").reshape(-1).tolist()
    where = axes_of(list(range(len(begins))) if chosen is None else chosen, len(x.shape))
    strides = (
        [1] * len(begins) if steps is None else build.array(steps, "the steps of Slice").reshape(-1).tolist()
    )
    for axis, begin, end, stride in zip(where, begins, finishes, strides, strict=True):
        x = _cut(build, x, axis, begin, end, stride)
    return x


def _cut(build: Builder, x: Value, axis: int, begin: Dim, end: Dim, stride: int) -> Value:
    extent = x.shape[axis]
    if stride == 0:
        raise build.fail("Slice with a step of 0", "the model is damaged")
    if stride < 0:
        return _cut_back(build, x, axis, begin, end, stride)
    begin, end = clamp(build, begin, extent), clamp(build, end, extent)
    if isinstance(x, Constant | Sizes) and begin == end:
        return Constant(np.take(x.array, [], axis).astype(x.dtype))  # an empty list of extents is legal
    if sz.at_least(begin - end, 0):
        raise build.fail(
            f"Slice [{begin}:{end}] of an extent of {extent} is empty", "empty tensors are not supported"
        )
    return build.slice(x, [axis], [begin], [end], [stride])


def _cut_back(build: Builder, x: Value, axis: int, begin: Dim, end: Dim, stride: int) -> Value:
    extent = x.shape[axis]
    if not isinstance(begin, int) or not isinstance(end, int):
        raise build.fail("Slice backwards between symbolic bounds is not supported", "use a positive step")
    if isinstance(extent, int):
        positions = list(range(extent))[begin:end:stride]
        if not positions:
            raise build.fail("Slice is empty", "empty tensors are not supported")
        return build("take", x, build.const(positions, "int64"), axis=axis)
    if (begin == -1 or begin >= 1 << 31) and end < -(1 << 31) and stride == -1:
        return build("flip", x, axis=axis)
    raise build.fail(
        f"Slice [{begin}:{end}:{stride}] of a symbolic extent is not supported", "use a positive step"
    )


def clamp(build: Builder, position: Dim, extent: Dim) -> Dim:
    """A slice bound as ONNX reads it, inside 0..extent.

    A symbolic bound of a table of constant extent must lie inside it (a position table cannot be longer than
    it is): that becomes a limit of the dimension.
    """
    if isinstance(position, int) and position < 0:
        position = 0 if position < -(1 << 31) else sz.maximum(extent + position, 0)
    elif isinstance(position, sz.Size) and sz.at_least(-position, 1):
        position = sz.maximum(extent + position, 0)
    if isinstance(position, int) and position >= 1 << 31:
        return extent
    if sz.at_least(extent - position, 0):
        return position
    if isinstance(position, sz.Size) and isinstance(extent, int) and build.limit(position, extent):
        return position
    return sz.minimum(position, extent)


@converts("Gather", inputs=(2, 2))
def gather(build: Builder, node: Node, x: Value, indices: Value) -> Value:
    (axis,) = axes_of([node.get("axis", 0)], len(x.shape))
    return take(build, x, indices, axis)


def take(build: Builder, x: Value, indices: Value, axis: int) -> Value:
    """The rows that indices name; a ramp of indices is a slice, all of them in order a reshape."""
    extent = x.shape[axis]
    if isinstance(indices, Constant):
        array = indices.array.astype(np.int64)
        if isinstance(extent, int):
            if array.size and (array.min() < -extent or array.max() >= extent):
                raise build.fail(
                    f"Gather of position {array.max()} from an extent of {extent}", "the model is damaged"
                )
            array = np.where(array < 0, array + extent, array)
        if isinstance(x, Sizes) and x.array.ndim == 1:
            return small(np.asarray(np.take(x.array, array), dtype=object), x.dtype)
        indices = Constant(array, indices.source)
    index = as_index(indices)
    if isinstance(x, Constant) and isinstance(indices, Constant):
        return build("take", x, indices, axis=axis)
    if index is None:
        bounds = interval(indices)
        if bounds is not None and isinstance(extent, int):
            build.limit(bounds[1] + 1, extent)  # as positions counted from a mask: no longer than their table
        return build("take", x, indices, axis=axis)
    data = as_index(x)
    if data is not None and len(x.shape) == 1:
        return settle(Index(index.shape, formula.move(data.expr, {-1: index.expr}), x.dtype))
    inside = (*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])
    if index.expr == formula.row_major(index.shape) and sz.product(index.shape) == extent:
        return build.reshape(x, inside)
    long = [a for a in range(len(index.shape)) if index.shape[a] != 1]
    ramp = iota(long[0] - len(index.shape), index.shape[long[0]]) if len(long) == 1 else 0
    start = index.expr - ramp
    if len(long) <= 1 and not _has_iota(start):
        if isinstance(start, int) and start < 0:
            start = start + extent
        stop = start + (index.shape[long[0]] if long else 1)
        fits = sz.at_least(start, 0) and (
            sz.at_least(extent - stop, 0) or (isinstance(extent, int) and build.limit(stop, extent))
        )
        if fits:
            return build.reshape(build.slice(x, [axis], [start], [stop], [1]), inside)
    return build("take", x, index, axis=axis)


def _has_iota(expr: Dim) -> bool:
    return any(isinstance(atom, sz.Iota) for atom in sz.atoms(expr)) or any(
        _has_iota(arg) for atom in sz.atoms(expr) if isinstance(atom, sz.Apply) for arg in atom.args
    )


@converts("GatherND", inputs=(2, 2))
def gather_nd(build: Builder, node: Node, x: Value, indices: Value) -> Value:
    if node.get("batch_dims", 0):
        raise build.fail("GatherND with batch_dims is not supported", "use batch_dims=0")
    depth = indices.shape[-1]
    if not isinstance(depth, int) or depth > len(x.shape):
        raise build.fail(
            f"GatherND with {depth} coordinates of {len(x.shape)} dimensions", "the model is damaged"
        )
    if isinstance(indices, Stack):
        space = indices.parts[0].shape[:-1]
        columns: list[Value] = [build.reshape(part, space) for part in indices.parts]
        plain = _select(build, x, [as_index(c) for c in columns], space)
        if plain is not None:
            return plain
    else:
        last = len(indices.shape) - 1
        columns = []
        for i in range(depth):
            column = build.slice(indices, [last], [i], [i + 1], [1])
            columns.append(build.reshape(column, indices.shape[:-1]))
    flat: Value | None = None
    for axis, column in enumerate(columns):
        extent = _number(build, x.shape[axis], column.dtype)
        zero = build.like(0, column)
        column = build("where", build("less", column, zero), build("add", column, extent), column)
        flat = column if flat is None else build("add", build("multiply", flat, extent), column)
    assert flat is not None
    merged = build.reshape(x, (sz.product(x.shape[:depth]), *x.shape[depth:]))
    return take(build, merged, flat, 0)


def _number(build: Builder, value: Dim, dtype: str) -> Value:
    array = np.empty((), dtype=object)
    array[...] = value
    return build.const(value, dtype) if isinstance(value, int) else Sizes(array, dtype)


def _select(build: Builder, x: Value, columns: list[Index | None], space: Shape) -> Value | None:
    """All elements in their order (the mask indexing of transformers): a reshape."""
    axes = []
    for axis, column in enumerate(columns):
        if column is None:
            return None
        match = [a for a in range(-len(space), 0) if column.expr == iota(a, space[a]) and space[a] != 1]
        if not match or (axes and match[0] <= axes[-1]):
            return None
        axes.append(match[0])
        extent = x.shape[axis]
        if extent != space[match[0]]:
            name = sz.name_of(extent)
            if name is None or sz.name_of(space[match[0]]) is None:
                return None
            raise EqualDims(name, space[match[0]])
    if any(space[a] != 1 and a not in axes for a in range(-len(space), 0)):
        return None
    return build.reshape(x, (*space, *x.shape[len(columns) :]))


@converts("GatherElements", inputs=(2, 2))
def gather_elements(build: Builder, node: Node, x: Value, indices: Value) -> Value:
    (axis,) = axes_of([node.get("axis", 0)], len(x.shape))
    extent = _number(build, x.shape[axis], indices.dtype)
    below = build("less", indices, build.like(0, indices))
    return build(
        "gather_elements", x, build("where", below, build("add", indices, extent), indices), axis=axis
    )


@converts("ScatterElements", inputs=(3, 3))
def scatter_elements(build: Builder, node: Node, x: Value, indices: Value, updates: Value) -> Value:
    if node.get("reduction", "none") != "none":
        raise build.fail("ScatterElements with a reduction is not supported", "use reduction=none")
    (axis,) = axes_of([node.get("axis", 0)], len(x.shape))
    return build("scatter_elements", x, indices, updates, axis=axis)


@converts("ScatterND", inputs=(3, 3))
def scatter_nd(build: Builder, node: Node, x: Value, indices: Value, updates: Value) -> Value:
    if node.get("reduction", "none") != "none":
        raise build.fail("ScatterND with a reduction is not supported", "use reduction=none")
    return build("scatter_nd", x, indices, updates)


@converts("DepthToSpace", "SpaceToDepth")
def depth_to_space(build: Builder, node: Node, x: Value) -> Value:
    size, (batch, channels, height, width) = node.attrs["blocksize"], x.shape
    if node.op == "SpaceToDepth":
        rows, columns = sz.floordiv(height, size), sz.floordiv(width, size)
        y = build.reshape(x, (batch, channels, rows, size, columns, size))
        y = build.permute(y, (0, 3, 5, 1, 2, 4))
        return build.reshape(y, (batch, channels * size * size, rows, columns))
    depth = sz.floordiv(channels, size * size)
    if node.get("mode", "DCR") == "DCR":
        y = build.permute(build.reshape(x, (batch, size, size, depth, height, width)), (0, 3, 4, 1, 5, 2))
    else:
        y = build.permute(build.reshape(x, (batch, depth, size, size, height, width)), (0, 1, 4, 2, 5, 3))
    return build.reshape(y, (batch, depth, height * size, width * size))


@converts("Pad", inputs=(1, 4))
def pad(
    build: Builder, node: Node, x: Value, pads: Value | None, fill: Value | None, axes: Value | None
) -> Value:
    if node.get("mode", "constant") != "constant":
        raise build.fail(f"Pad with mode {node.attrs['mode']} is not supported", "use mode=constant")
    amounts = node.attrs["pads"] if pads is None else build.array(pads, "the pads").reshape(-1).tolist()
    value = (
        node.get("value", 0.0) if fill is None else build.array(fill, "the fill of Pad").reshape(-1)[0].item()
    )
    rank = len(x.shape)
    where = (
        range(rank)
        if axes is None
        else axes_of(build.array(axes, "the axes of Pad").reshape(-1).tolist(), rank)
    )
    before, after = [0] * rank, [0] * rank
    for i, axis in enumerate(where):
        before[axis], after[axis] = int(amounts[i]), int(amounts[len(where) + i])
    for axis in range(rank):
        less, more = max(0, -before[axis]), max(0, -after[axis])
        if less or more:
            x = build.slice(x, [axis], [less], [x.shape[axis] - more], [1])
    before, after = [max(0, n) for n in before], [max(0, n) for n in after]
    if not any(before) and not any(after):
        return x
    return build("pad", x, before=tuple(before), after=tuple(after), value=value)


@converts("Trilu", since=14, inputs=(1, 2))
def trilu(build: Builder, node: Node, x: Value, k: Value | None) -> Value:
    shift = 0 if k is None else build.dims(k, "the diagonal of Trilu")[0]
    row, column = iota(-2, x.shape[-2]), iota(-1, x.shape[-1])
    upper = bool(node.get("upper", 1))
    keep = sz.less_equal(row + shift, column) if upper else sz.less_equal(column, row + shift)
    mask = Index(x.shape[-2:], keep, "bool")
    return build("where", mask, x, build.like(0, x))


@converts("OneHot", inputs=(3, 3))
def one_hot(build: Builder, node: Node, indices: Value, depth: Value, values: Value) -> Value:
    count = build.dims(depth, "the depth of OneHot")[0]
    rank = len(indices.shape) + 1
    (axis,) = axes_of([node.get("axis", -1)], rank)
    shape = [*indices.shape[:axis], 1, *indices.shape[axis:]]
    number = _number(build, count, indices.dtype)
    indices = build(
        "where", build("less", indices, build.like(0, indices)), build("add", indices, number), indices
    )
    line = Index((count, *([1] * (rank - axis - 1))), iota(axis - rank, count), "int64")
    hit = build("equal", build("cast", build.reshape(indices, shape), dtype="int64"), line)
    off, on = (build.slice(values, [0], [i], [i + 1], [1]) for i in (0, 1))
    return build("where", hit, build.reshape(on, ()), build.reshape(off, ()))
