"""Fused operators of ONNX Runtime (domain com.microsoft), unfolded into plain ones."""

from __future__ import annotations

from collections.abc import Sequence

from espalier.passes.frontend import size as sz
from espalier.passes.frontend.build import Builder
from espalier.passes.frontend.convert.attention import attend, causal_mask, join_heads, split_heads
from espalier.passes.frontend.convert.linear import gemm, product
from espalier.passes.frontend.convert.move import take
from espalier.passes.frontend.convert.norm import layer_norm, rms_norm
from espalier.passes.frontend.convert.registry import MICROSOFT, Node, converts
from espalier.passes.frontend.size import Dim, iota
from espalier.passes.frontend.values import Index, Value


@converts("FusedMatMul", "TransposeMatMul", domain=MICROSOFT, inputs=(2, 2))
def fused_matmul(build: Builder, node: Node, a: Value, b: Value) -> Value:
    if node.get("transBatchA", 0) or node.get("transBatchB", 0):
        raise build.fail(
            "FusedMatMul with transBatchA or transBatchB is not supported", "save the model unoptimised"
        )
    if node.get("transA", 0):
        a = build.permute(a, _swap(a))
    if node.get("transB", 0):
        b = build.permute(b, _swap(b))
    y = product(build, a, b)
    alpha = node.get("alpha", 1.0)
    return y if alpha == 1.0 else build("multiply", y, build.like(alpha, y))


def _swap(x: Value) -> Sequence[int]:
    rank = len(x.shape)
    return (*range(rank - 2), rank - 1, rank - 2) if rank > 1 else (0,)


@converts("FusedGemm", domain=MICROSOFT, inputs=(2, 3))
def fused_gemm(build: Builder, node: Node, a: Value, b: Value, c: Value | None) -> Value:
    y = gemm(build, node, a, b, c)
    name = node.get("activation", "")
    known = {"Relu": "relu", "Tanh": "tanh", "Sigmoid": "sigmoid", "": None}
    if name not in known:
        raise build.fail(f"FusedGemm with {name} is not supported", "save the model unoptimised")
    return build(known[name], y) if known[name] else y  # pyright: ignore[reportArgumentType]


@converts("BiasGelu", domain=MICROSOFT, inputs=(2, 2))
def bias_gelu(build: Builder, node: Node, x: Value, bias: Value) -> Value:
    return build("gelu", build("add", x, bias))


@converts("FastGelu", domain=MICROSOFT, inputs=(1, 2))
def fast_gelu(build: Builder, node: Node, x: Value, bias: Value | None) -> Value:
    return build("gelu_tanh", x if bias is None else build("add", x, bias))


@converts("SkipLayerNormalization", domain=MICROSOFT, inputs=(3, 5))
def skip_layer_normalization(
    build: Builder, node: Node, x: Value, skip: Value, scale: Value, beta: Value | None, bias: Value | None
) -> list[Value | None]:
    total = _with_skip(build, x, skip, bias)
    y = layer_norm(build, total, scale, beta, len(total.shape) - 1, node.get("epsilon", 1e-12))
    return [y, None, None, total]


@converts("SkipSimplifiedLayerNormalization", domain=MICROSOFT, inputs=(3, 4))
def skip_rms_normalization(
    build: Builder, node: Node, x: Value, skip: Value, scale: Value, bias: Value | None
) -> list[Value | None]:
    total = _with_skip(build, x, skip, bias)
    return [
        rms_norm(build, total, scale, len(total.shape) - 1, node.get("epsilon", 1e-12)),
        None,
        None,
        total,
    ]


def _with_skip(build: Builder, x: Value, skip: Value, bias: Value | None) -> Value:
    if bias is not None:
        x = build("add", x, bias)
    return build("add", x, skip)


@converts("EmbedLayerNormalization", domain=MICROSOFT, inputs=(7, 9))
def embed_layer_normalization(
    build: Builder,
    node: Node,
    ids: Value,
    segments: Value | None,
    words: Value,
    places: Value,
    kinds: Value | None,
    scale: Value,
    beta: Value,
    mask: Value | None,
    positions: Value | None,
) -> list[Value | None]:
    total = take(build, words, ids, 0)
    if segments is not None and kinds is not None:
        total = build("add", total, take(build, kinds, segments, 0))
    where = positions if positions is not None else Index((1, ids.shape[1]), iota(-1, ids.shape[1]), "int64")
    total = build("add", total, take(build, places, where, 0))
    y = layer_norm(build, total, scale, beta, 2, node.get("epsilon", 1e-12))
    lengths = None
    if mask is not None:
        lengths = build("sum", build("cast", mask, dtype="int32"), axes=(1,), keepdims=False)
    return [y, lengths, total]


@converts("Attention", domain=MICROSOFT, inputs=(2, 7))
def attention(
    build: Builder,
    node: Node,
    x: Value,
    weight: Value,
    bias: Value | None,
    mask: Value | None,
    past: Value | None,
    extra: Value | None,
    past_length: Value | None,
) -> list[Value]:
    if past is not None or past_length is not None:
        raise build.fail("Attention with a past is not supported", "export the model without a cache")
    if node.get("do_rotary", 0):
        raise build.fail("Attention with do_rotary is not supported", "save the model unoptimised")
    heads = node.attrs["num_heads"]
    third = sz.floordiv(weight.shape[1], 3)
    widths: list[Dim] = list(node.get("qkv_hidden_sizes") or [third, third, third])
    fused = build.matmul(x, weight)
    if bias is not None:
        fused = build("add", fused, bias)
    begin: Dim = 0
    parts = []
    for width in widths:
        parts.append(split_heads(build, build.slice(fused, [2], [begin], [begin + width], [1]), heads))
        begin = begin + width
    q, k, v = parts
    masks = _masks(build, node, mask, extra, q, k)
    blocked = node.get("mask_filter_value", -10000.0)
    y = attend(build, q, k, v, masks, scale=node.get("scale", 0.0) or None, blocked=blocked)
    return [join_heads(build, y)]


@converts("MultiHeadAttention", domain=MICROSOFT, inputs=(1, 8))
def multi_head_attention(
    build: Builder,
    node: Node,
    q: Value,
    k: Value | None,
    v: Value | None,
    bias: Value | None,
    mask: Value | None,
    extra: Value | None,
    past_key: Value | None,
    past_value: Value | None,
) -> list[Value]:
    if k is None or v is None or len(q.shape) != 3:
        raise build.fail(
            "MultiHeadAttention with packed inputs is not supported", "save the model unoptimised"
        )
    heads = node.attrs["num_heads"]
    if bias is not None:
        widths = [q.shape[2], q.shape[2], v.shape[-1] * (1 if len(v.shape) == 3 else v.shape[1])]
        begin: Dim = 0
        cuts = []
        for width in widths:
            cuts.append(build.slice(bias, [0], [begin], [begin + width], [1]))
            begin = begin + width
        q = build("add", q, cuts[0])
        k = build("add", k, cuts[1]) if len(k.shape) == 3 else k
        v = build("add", v, cuts[2]) if len(v.shape) == 3 else v
    q, k, v = (split_heads(build, x, heads) if len(x.shape) == 3 else x for x in (q, k, v))
    if past_key is not None and past_value is not None:
        k, v = build.concat([past_key, k], 2), build.concat([past_value, v], 2)
    masks = _masks(build, node, mask, extra, q, k)
    blocked = node.get("mask_filter_value", -10000.0)
    y = attend(build, q, k, v, masks, scale=node.get("scale", 0.0) or None, blocked=blocked)
    return [join_heads(build, y), k, v]


def _masks(
    build: Builder, node: Node, mask: Value | None, extra: Value | None, q: Value, k: Value
) -> list[Value]:
    """The masks of ONNX Runtime's attention, as they add to scores [B, H, S, T]."""
    masks: list[Value] = []
    batch, rows, columns = q.shape[0], q.shape[2], k.shape[2]
    if mask is not None and len(mask.shape) == 2:
        masks.append(build.reshape(_seen(build, mask), (mask.shape[0], 1, 1, mask.shape[1])))
    elif mask is not None and len(mask.shape) == 3:
        masks.append(build.reshape(_seen(build, mask), (mask.shape[0], 1, *mask.shape[1:])))
    elif mask is not None and len(mask.shape) == 1 and mask.shape[0] == batch:
        ends = build.reshape(build("cast", mask, dtype="int64"), (batch, 1, 1, 1))
        masks.append(build("less", Index((columns,), iota(-1, columns), "int64"), ends))
    elif mask is not None:
        raise build.fail(
            f"an attention mask of {len(mask.shape)} dimensions is not supported", "use [B, T] or [B, S, T]"
        )
    if node.get("unidirectional", 0):
        masks.append(causal_mask(rows, columns, columns - rows))
    if extra is not None:
        masks.append(extra)
    return masks


def _seen(build: Builder, mask: Value) -> Value:
    return build("cast", mask, dtype="bool")
