"""Fuse self-attention: from the split into heads to the merge of heads becomes one operator.

Handled: `merge(softmax(scale * split(q) @ split(k)^T [+ mask]) @ split(v))` over [batch, heads, sequence,
width] with the scale anywhere on the way, the mask added or selected by `where`, and the
`where(isnan(..), 0, ..)` that torch puts behind the softmax. Keys and queries have one length (no
cross-attention, no cache); all heads have their own keys and values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import tvm
from tvm import relax

from espalier.passes import ops
from espalier.passes.graph import Emit, Scope, axes_of, dims, is_number, rewrite, same_dims, scalar


def run(mod: tvm.IRModule) -> tvm.IRModule:
    """Rewrite `main`."""
    return rewrite(mod, _visit)


@dataclass(frozen=True)
class _Heads:
    """A tensor [B, S, H * D] seen as heads, times a number."""

    source: relax.Expr
    batch: tvm.ir.Expr | int
    length: tvm.ir.Expr | int
    heads: int
    width: int
    scale: float


def _visit(value: relax.Expr, scope: Scope, emit: Emit) -> relax.Expr | None:
    merge = scope.call(value, "reshape")
    swap = scope.call(merge.args[0], "permute_dims") if merge is not None else None
    mixed = scope.call(swap.args[0], "matmul") if swap is not None and axes_of(swap) == [0, 2, 1, 3] else None
    if mixed is None:
        return None
    weights, nan_to_zero = through_nan_guard(mixed.args[0], scope)
    softmax = scope.call(weights, "nn.softmax")
    values = _heads(mixed.args[1], [0, 2, 1, 3], scope)
    if softmax is None or values is None or values.scale != 1.0 or int(softmax.attrs.axis) not in (-1, 3):
        return None
    scores, mask = through_mask(softmax.args[0], scope)
    scale, scores = scaled(scores, scope)
    dot = scope.call(scores, "matmul")
    if dot is None:
        return None
    query = _heads(dot.args[0], [0, 2, 1, 3], scope)
    key = _heads(dot.args[1], [0, 2, 3, 1], scope)
    if query is None or key is None:
        return None
    size = [query.batch, query.length]
    agree = query.heads == key.heads == values.heads and query.width == key.width
    lengths = all(same_dims([part.batch, part.length], size) for part in (key, values))
    merged = same_dims(dims(value), [*size, values.heads * values.width])
    if not (agree and lengths and merged and _is_f32(query, key, values)):
        return None
    if mask is not None:
        mask = mask_of(mask, [query.batch, query.heads, query.length, query.length], emit)
        if mask is None:
            return None
    return ops.attention(
        query.source,
        key.source,
        values.source,
        mask,
        relax.ShapeExpr(size),
        heads=query.heads,
        scale=scale * query.scale * key.scale,
        nan_to_zero=nan_to_zero,
    )


def _is_f32(*parts: _Heads) -> bool:
    return all(part.source.ty.dtype == "float32" for part in parts)


def scaled(value: relax.Expr, scope: Scope) -> tuple[float, relax.Expr]:
    """A value as a number times another value."""
    scale = 1.0
    while True:
        call = scope.call(value, "multiply", "divide")
        if call is None:
            return scale, value
        left, right = call.args
        if scalar(right) is not None:
            number = scalar(right)
            scale = scale * number if scope.call(value, "multiply") is not None else scale / number
            value = left
        elif scalar(left) is not None and scope.call(value, "multiply") is not None:
            scale, value = scale * scalar(left), right
        else:
            return scale, value


def _heads(value: relax.Expr, order: list[int], scope: Scope) -> _Heads | None:
    """A value as heads: [B, S, H * D] reshaped to [B, S, H, D], then its axes in `order`, scaled anywhere."""
    scale, value = scaled(value, scope)
    axes = [0, 1, 2, 3]
    while (permuted := _permuted(value, scope)) is not None:
        order_of, value = permuted
        axes = [order_of[axis] for axis in axes]
        inner, value = scaled(value, scope)
        scale *= inner
    split = scope.call(value, "reshape")
    if split is None or axes != order or len(dims(value)) != 4:
        return None
    inner, source = scaled(split.args[0], scope)
    batch, length, heads, width = dims(value)
    if not isinstance(heads, int) or not isinstance(width, int):
        return None
    if not same_dims(dims(source), [batch, length, heads * width]):
        return None
    return _Heads(source, batch, length, heads, width, scale * inner)


def _permuted(value: relax.Expr, scope: Scope) -> tuple[list[int], relax.Expr] | None:
    """(axes, source) of a permutation of four axes, also with the first two merged meanwhile."""
    permute = scope.call(value, "permute_dims")
    if permute is not None and len(dims(value)) == 4:
        return axes_of(permute), permute.args[0]
    apart = scope.call(value, "reshape")
    swap = scope.call(apart.args[0], "permute_dims") if apart is not None else None
    merged = scope.call(swap.args[0], "reshape") if swap is not None else None
    if merged is None or len(dims(swap)) != 3 or axes_of(swap) != [0, 2, 1]:
        return None
    source = merged.args[0]
    shape = dims(source)
    if len(shape) == 4 and same_dims([*shape[:2], shape[3], shape[2]], dims(value)):
        return [0, 1, 3, 2], source
    return None


def through_nan_guard(value: relax.Expr, scope: Scope) -> tuple[relax.Expr, bool]:
    """The value inside `where(isnan(value), 0, value)`, and whether there was such a guard."""
    where = scope.call(value, "where")
    if where is None:
        return value, False
    guard = scope.call(where.args[0], "isnan")
    is_zero = is_number(where.args[1], 0.0)
    if guard is not None and is_zero and guard.args[0].same_as(where.args[2]):
        return where.args[2], True
    return value, False


def through_mask(value: relax.Expr, scope: Scope) -> tuple[relax.Expr, relax.Expr | None]:
    """(scores, mask) of `scores + mask` or `where(mask, scores, -inf)`; no mask: (value, None)."""
    add = scope.call(value, "add")
    if add is not None:
        for scores, mask in (add.args, list(add.args)[::-1]):
            _, inner = scaled(scores, scope)
            if scope.call(inner, "matmul") is not None:
                return scores, mask
    where = scope.call(value, "where")
    if where is not None and scalar(where.args[2]) == -math.inf:
        return where.args[1], where.args[0]
    return value, None


def mask_of(mask: relax.Expr, full: list, emit: Emit) -> relax.Expr | None:
    """The mask with four dimensions, each 1 or full; None when it is something else."""
    shape = dims(mask)
    if len(shape) > 4 or mask.ty.dtype not in ("float32", "bool"):
        return None
    padded = [1] * (4 - len(shape)) + shape
    if not all(dim == 1 or same_dims([dim], [want]) for dim, want in zip(padded, full, strict=True)):
        return None
    if len(shape) < 4:
        mask = emit(relax.op.reshape(mask, padded))
    if padded[3] == 1 and full[3] != 1:
        mask = emit(relax.op.broadcast_to(mask, [*padded[:3], full[3]]))
    return mask
