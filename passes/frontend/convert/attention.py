"""Attention and rotary positions, as the plain operators they stand for."""

from __future__ import annotations

import math
from collections.abc import Sequence

from espalier.passes.frontend import size as sz
from espalier.passes.frontend.build import Builder
from espalier.passes.frontend.convert.move import take
from espalier.passes.frontend.convert.registry import MICROSOFT, Node, converts
from espalier.passes.frontend.size import Dim, iota
from espalier.passes.frontend.values import Index, Value, dims


@converts("Attention", since=23, inputs=(3, 7))
def attention(
    build: Builder,
    node: Node,
    q: Value,
    k: Value,
    v: Value,
    mask: Value | None,
    past_key: Value | None,
    past_value: Value | None,
    used: Value | None,
) -> list[Value]:
    flat = len(q.shape) == 3
    if flat:
        q = split_heads(build, q, node.attrs["q_num_heads"])
        k, v = (split_heads(build, x, node.attrs["kv_num_heads"]) for x in (k, v))
    causal = bool(node.get("is_causal", 0))
    if used is not None and causal:
        raise build.fail(
            "Attention with nonpad_kv_seqlen and is_causal is not supported", "pass the mask itself"
        )
    offset: Dim = 0
    if past_key is not None and past_value is not None:
        offset = past_key.shape[2]
        k, v = build.concat([past_key, k], 2), build.concat([past_value, v], 2)
    masks = [mask] if mask is not None else []
    if used is not None:
        column = Index((k.shape[2],), iota(-1, k.shape[2]), "int64")
        masks.append(
            build("less", column, build.reshape(build("cast", used, dtype="int64"), (q.shape[0], 1, 1, 1)))
        )
    if causal:
        masks.append(causal_mask(q.shape[2], k.shape[2], offset))
    wide = {1: "float32", 11: "float64"}.get(node.get("softmax_precision", 0))
    y = attend(
        build,
        q,
        k,
        v,
        masks,
        scale=node.get("scale"),
        softcap=node.get("softcap", 0.0),
        softmax_dtype=wide,
        rows_may_be_blocked=mask is not None or used is not None,
    )
    return [join_heads(build, y) if flat else y, k, v]


def causal_mask(rows: Dim, columns: Dim, offset: Dim = 0) -> Index:
    """True where a query at row + offset may see a key."""
    shape = (rows, columns)
    return Index(shape, sz.less_equal(iota(-1, columns), iota(-2, rows) + offset), "bool")


def split_heads(build: Builder, x: Value, heads: int) -> Value:
    """[B, S, H * D] -> [B, H, S, D]."""
    batch, length, width = x.shape
    x = build.reshape(x, (batch, length, heads, sz.floordiv(width, heads)))
    return build.permute(x, (0, 2, 1, 3))


def join_heads(build: Builder, x: Value) -> Value:
    """[B, H, S, D] -> [B, S, H * D]."""
    batch, heads, length, width = x.shape
    return build.reshape(build.permute(x, (0, 2, 1, 3)), (batch, length, heads * width))


def attend(
    build: Builder,
    q: Value,
    k: Value,
    v: Value,
    masks: Sequence[Value],
    *,
    scale: float | None = None,
    softcap: float = 0.0,
    blocked: float = -math.inf,
    softmax_dtype: str | None = None,
    rows_may_be_blocked: bool = False,
) -> Value:
    """softmax(q kᵀ scale + masks) v on [B, H, S, D]; a truth mask adds `blocked` where it is false.

    A query that sees no key gives zeros when `rows_may_be_blocked` (ONNX's erratum to opset 23), as exporters
    write it: NaN after softmax becomes 0. Scale is split between q and k as in the ONNX definition; fewer key
    heads than query heads are repeated.
    """
    width = q.shape[-1]
    if scale is None:
        if not isinstance(width, int):
            raise build.fail("attention heads of symbolic width", "export with a constant head size")
        scale = 1 / math.sqrt(width)
    k, v = (_repeat_heads(build, x, q.shape[1]) for x in (k, v))
    root = build.like(math.sqrt(scale), q)
    scores = build.matmul(build("multiply", q, root), build("multiply", build.permute(k, (0, 1, 3, 2)), root))
    if softcap:
        cap = build.like(softcap, scores)
        scores = build("multiply", build("tanh", build("divide", scores, cap)), cap)
    truths = [mask for mask in masks if mask.dtype == "bool"]
    if truths:
        seen = truths[0]
        for other in truths[1:]:
            seen = build("logical_and", seen, other)
        scores = build(
            "add", scores, build("where", seen, build.like(0, scores), build.like(blocked, scores))
        )
    for mask in masks:
        if mask.dtype != "bool":
            scores = build("add", scores, build("cast", mask, dtype=scores.dtype))
    dtype = scores.dtype
    weights = build(
        "softmax", build("cast", scores, dtype=softmax_dtype or dtype), axis=len(scores.shape) - 1
    )
    if rows_may_be_blocked:
        weights = build("where", build("isnan", weights), build.like(0, weights), weights)
    return build.matmul(build("cast", weights, dtype=dtype), v)


def _repeat_heads(build: Builder, x: Value, heads: Dim) -> Value:
    batch, have, length, width = x.shape
    if have == heads:
        return x
    times = sz.divide_exact(heads, have)
    if times is None:
        raise build.fail(
            f"attention with {heads} query heads and {have} key heads", "one must divide the other"
        )
    x = build.broadcast_to(
        build.reshape(x, (batch, have, 1, length, width)), (batch, have, times, length, width)
    )
    return build.reshape(x, (batch, heads, length, width))


@converts("RotaryEmbedding", since=23, inputs=(3, 4))
def rotary(build: Builder, node: Node, x: Value, cos: Value, sin: Value, positions: Value | None) -> Value:
    return rotate(build, node, x, cos, sin, positions)


@converts("RotaryEmbedding", domain=MICROSOFT, inputs=(4, 4))
def contrib_rotary(build: Builder, node: Node, x: Value, positions: Value, cos: Value, sin: Value) -> Value:
    if node.get("scale", 1.0) != 1.0 or node.get("is_packed_batching", 0):
        raise build.fail(
            "RotaryEmbedding with scale or packed batching is not supported", "use the plain form"
        )
    if positions.shape == (1,) and len(positions.shape) == 1:
        known = dims(positions)
        if known != [0]:
            raise build.fail(
                "RotaryEmbedding with an offset that is not constant 0", "pass position ids [B, S]"
            )
        length = x.shape[1] if len(x.shape) == 3 else x.shape[2]
        positions = Index((x.shape[0], length), iota(-1, length), "int64")
    return rotate(build, node, x, cos, sin, positions)


def rotate(build: Builder, node: Node, x: Value, cos: Value, sin: Value, positions: Value | None) -> Value:
    """ONNX RotaryEmbedding on [B, H, S, D] or [B, S, H * D]."""
    flat = len(x.shape) == 3
    if flat:
        heads = node.get("num_heads", 0)
        if not heads:
            rotary_dim = node.get("rotary_embedding_dim", 0) or 2 * int(cos.shape[-1])  # pyright: ignore[reportArgumentType]
            heads = int(sz.floordiv(x.shape[2], rotary_dim))  # pyright: ignore[reportArgumentType]
        batch, length, width = x.shape
        x = build.reshape(x, (batch, length, heads, sz.floordiv(width, heads)))
    else:
        x = build.permute(x, (0, 2, 1, 3))
    batch, length, heads, width = x.shape
    turned = node.get("rotary_embedding_dim", 0) or width
    half = sz.floordiv(turned, 2)
    if positions is not None:
        cos, sin = take(build, cos, positions, 0), take(build, sin, positions, 0)
    cos, sin = (build.reshape(c, (c.shape[0], c.shape[1], 1, half)) for c in (cos, sin))
    head, tail = build.slice(x, [3], [0], [turned], [1]), None
    if turned != width:
        tail = build.slice(x, [3], [turned], [width], [1])
    interleaved = bool(node.get("interleaved", 0))
    if interleaved:
        pairs = build.reshape(head, (batch, length, heads, half, 2))
        a, b = (
            build.reshape(build.slice(pairs, [4], [i], [i + 1], [1]), (batch, length, heads, half))
            for i in (0, 1)
        )
    else:
        a, b = build.slice(head, [3], [0], [half], [1]), build.slice(head, [3], [half], [turned], [1])
    real = build("subtract", build("multiply", a, cos), build("multiply", b, sin))
    imag = build("add", build("multiply", a, sin), build("multiply", b, cos))
    if interleaved:
        five = (batch, length, heads, half, 1)
        y = build.reshape(build.concat([build.reshape(real, five), build.reshape(imag, five)], 4), head.shape)
    else:
        y = build.concat([real, imag], 3)
    if tail is not None:
        y = build.concat([y, tail], 3)
    return build.reshape(y, (batch, length, heads * width)) if flat else build.permute(y, (0, 2, 1, 3))
