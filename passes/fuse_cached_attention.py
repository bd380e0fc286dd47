"""Fuse attention over a cache: new tokens that look at keys and values given from before, and at their own.

Handled: `merge(softmax(scale * q @ concat(cached k, k)^T [+ mask]) @ concat(cached v, v))` over
[batch, heads, tokens, width], as a decoder takes its steps. Parts that are blocks of larger tensors, such as
one layer of a cache of all layers, are read where they lie.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import tvm
from tvm import relax

from espalier.passes import ops
from espalier.passes.fuse_attention import mask_of, scaled, through_mask, through_nan_guard
from espalier.passes.graph import Emit, Scope, axes_of, dims, rewrite, same_dims
from espalier.passes.views import view


def run(mod: tvm.IRModule) -> tvm.IRModule:
    """Rewrite `main`."""
    return rewrite(mod, _Fuse())


@dataclass
class _Fuse:
    """Tensors already seen as blocks: a cache of all layers is one tensor for all of them."""

    blocks: dict[tuple[relax.Expr, str], relax.Expr] = field(default_factory=dict)

    def __call__(self, value: relax.Expr, scope: Scope, emit: Emit) -> relax.Expr | None:
        mixed = _merged(value, scope)
        if mixed is None:
            return None
        weights, nan_to_zero = through_nan_guard(mixed.args[0], scope)
        softmax = scope.call(weights, "nn.softmax")
        values = _joined(mixed.args[1], scope)
        if softmax is None or values is None or int(softmax.attrs.axis) not in (-1, 3):
            return None
        scores, mask = through_mask(softmax.args[0], scope)
        scale, scores = scaled(scores, scope)
        dot = scope.call(scores, "matmul")
        swap = scope.call(dot.args[1], "permute_dims") if dot is not None else None
        if swap is None or axes_of(swap) != [0, 1, 3, 2]:
            return None
        keys = _joined(swap.args[0], scope)
        factor, query = scaled(dot.args[0], scope)
        if keys is None or not _fit(query, keys, values):
            return None
        if mask is not None:
            mask = mask_of(mask, dims(dot), emit)
            if mask is None:
                return None
        parts = (query, keys[0], values[0], keys[1], values[1])
        tensors, places = zip(*(self._block(part, scope, emit) for part in parts), strict=True)
        return ops.cached_attention(
            tensors[0],
            tensors[1:3],
            tensors[3:],
            mask,
            places,
            scale=scale * factor,
            nan_to_zero=nan_to_zero,
        )

    def _block(self, part: relax.Expr, scope: Scope, emit: Emit) -> tuple[relax.Expr, int]:
        """A tensor [n, ...] of blocks, and which of the n a part is."""
        found = view(part, scope)
        shape = [found.count, *dims(part)]
        if same_dims(dims(found.source), shape):
            return found.source, found.place
        key = (found.source, str(shape))
        if key not in self.blocks:
            self.blocks[key] = emit(relax.op.reshape(found.source, shape))
        return self.blocks[key], found.place


def _merged(value: relax.Expr, scope: Scope) -> relax.Call | None:
    """The product [B, heads, S, D] that a value [B, S, heads * D] is the merged heads of."""
    merge = scope.call(value, "reshape")
    if merge is None:
        return None
    swap = scope.call(merge.args[0], "permute_dims")
    if swap is not None and axes_of(swap) != [0, 2, 1, 3]:
        return None
    mixed = scope.call(merge.args[0] if swap is None else swap.args[0], "matmul")
    if mixed is None or len(dims(mixed)) != 4:
        return None
    batch, heads, tokens, width = dims(mixed)
    known = isinstance(heads, int) and isinstance(width, int) and (swap is not None or tokens == 1)
    return mixed if known and same_dims(dims(value), [batch, tokens, heads * width]) else None


def _joined(value: relax.Expr, scope: Scope) -> tuple[relax.Expr, relax.Expr] | None:
    """(cached, new) of keys or values that are these two one after another."""
    concat = scope.call(value, "concat")
    if concat is None or len(dims(value)) != 4 or int(concat.attrs.axis) not in (2, -2):
        return None
    parts = scope.value(concat.args[0])
    return tuple(parts.fields) if isinstance(parts, relax.Tuple) and len(parts.fields) == 2 else None


def _fit(
    query: relax.Expr, keys: tuple[relax.Expr, relax.Expr], values: tuple[relax.Expr, relax.Expr]
) -> bool:
    """Whether all are float32, of one batch and as many heads, and as many of the tokens are new."""
    batch, heads, tokens, width = dims(query)
    past = dims(keys[0])[2]
    value_width = dims(values[0])[3]
    wanted = [
        (keys[0], past, width),
        (keys[1], tokens, width),
        (values[0], past, value_width),
        (values[1], tokens, value_width),
    ]
    known = isinstance(heads, int) and isinstance(width, int) and isinstance(value_width, int)
    return known and all(
        part.ty.dtype == "float32" and same_dims(dims(part), [batch, heads, length, size])
        for part, length, size in wanted
    )
