"""The Relax operators of a Transformer that Espalier has kernels for.

Each exists in two layouts: "tokens", the tensors as the model has them (features last), and "tiles", the
feature-major form `[ceil(tokens / 16), features, 16]` that the kernels keep between layers. In the tokens
layout each legalises to plain Relax, which states what it means.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tvm
from tvm import relax
from tvm.ir import Op, _ffi_api

from espalier.passes.graph import dims, product

TILE = 16
"""Tokens in a tile."""


def linear(
    x: relax.Expr,
    weight: relax.Expr,
    bias: relax.Expr | None = None,
    residual: relax.Expr | None = None,
    *,
    layer: str,
    activation: str = "none",
    layout: str = "tokens",
) -> relax.Call:
    """`activation(x @ weight + bias) + residual`.

    x: [..., K], weight: [K, N], bias: [N], residual and result: [..., N]. `layer` names the layer in reports.
    In tiles the number of tokens is one more argument, a shape: see `linear_in_tiles`.
    """
    args = [arg for arg in (x, weight, bias, residual) if arg is not None]
    return _call(
        "linear",
        args,
        layer=layer,
        activation=activation,
        bias=int(bias is not None),
        residual=int(residual is not None),
        layout=layout,
    )


def linear_args(call: relax.Call) -> tuple[relax.Expr, relax.Expr, relax.Expr | None, relax.Expr | None]:
    """(x, weight, bias, residual) of a `linear`."""
    rest = list(call.args[2:])
    bias = rest.pop(0) if call.attrs["bias"] else None
    residual = rest.pop(0) if call.attrs["residual"] else None
    return call.args[0], call.args[1], bias, residual


def linear_in_tiles(call: relax.Call, args: Sequence[relax.Expr]) -> relax.Call:
    """A `linear` over tiles with these arguments, which also knows how many tokens there are."""
    tokens = product(dims(call.args[0])[:-1])
    return with_layout(call, [*args, relax.ShapeExpr([tokens])], "tiles")


def layer_norm(
    x: relax.Expr, gain: relax.Expr, bias: relax.Expr, *, epsilon: float, layout: str = "tokens"
) -> relax.Call:
    """Layer normalisation over the features. x: [..., K], gain and bias: [K]."""
    return _call("layer_norm", [x, gain, bias], epsilon=float(epsilon), layout=layout)


def attention(
    query: relax.Expr,
    key: relax.Expr,
    value: relax.Expr,
    mask: relax.Expr | None,
    size: relax.ShapeExpr,
    *,
    heads: int,
    scale: float,
    nan_to_zero: bool = False,
    layout: str = "tokens",
) -> relax.Call:
    """Self-attention of all heads: `softmax(scale * Q K^T + mask) V`.

    query, key: [B, S, heads * D], value and result: [B, S, heads * Dv], mask: [B|1, heads|1, S|1, S], f32 to
    add or bool to keep, size: (B, S). With `nan_to_zero` a query whose every key is masked out gets zeros.
    """
    args = [query, key, value, *([] if mask is None else [mask]), size]
    return _call(
        "attention",
        args,
        heads=heads,
        scale=float(scale),
        nan_to_zero=int(nan_to_zero),
        mask=int(mask is not None),
        layout=layout,
    )


def cached_attention(
    query: relax.Expr,
    cached: Sequence[relax.Expr],
    new: Sequence[relax.Expr],
    mask: relax.Expr | None,
    places: Sequence[int],
    *,
    scale: float,
    nan_to_zero: bool = False,
) -> relax.Call:
    """Attention of S new tokens over P cached ones and themselves: `softmax(scale * Q K^T + mask) V`.

    query: [n, B, heads, S, D], cached: keys [n, B, heads, P, D] and values [n, B, heads, P, Dv], new: the
    same of S tokens, places: which of the n (they may differ) to take of query, cached keys, cached values,
    new keys and new values, mask: [B|1, heads|1, S|1, P + S], f32 to add or bool to keep. Result:
    [B, S, heads * Dv]. With `nan_to_zero` a query whose every key is masked out gets zeros.
    """
    args = [query, *cached, *new, *([] if mask is None else [mask]), relax.ShapeExpr(list(places))]
    return _call(
        "cached_attention",
        args,
        scale=float(scale),
        nan_to_zero=int(nan_to_zero),
        mask=int(mask is not None),
    )


def to_tiles(x: relax.Expr) -> relax.Call:
    """[..., K] -> [ceil(tokens / 16), K, 16]; the lanes past the last token are 0."""
    return _call("to_tiles", [x])


def from_tiles(x: relax.Expr, shape: Sequence) -> relax.Call:
    """[ceil(tokens / 16), K, 16] -> `shape` = [..., K]."""
    return _call("from_tiles", [x, relax.ShapeExpr(list(shape))])


def with_layout(call: relax.Call, args: Sequence[relax.Expr], layout: str) -> relax.Call:
    """The same operator in another layout."""
    attrs = {**dict(call.attrs.items()), "layout": layout}
    return relax.Call(call.op, list(args), tvm.ir.make_node("ir.DictAttrs", **attrs))


def tiles(tokens: tvm.ir.Expr | int) -> tvm.ir.Expr | int:
    """Tiles that hold a number of tokens."""
    count = (tokens + TILE - 1) // TILE
    return count if isinstance(count, int) else tvm.sym.Analyzer().simplify(count)


def _call(name: str, args: Sequence[relax.Expr], **attrs: int | float | str) -> relax.Call:
    return relax.Call(Op.get(f"relax.espalier.{name}"), list(args), tvm.ir.make_node("ir.DictAttrs", **attrs))


def _features_like(call: relax.Call, features: tvm.ir.Expr | int) -> relax.TensorType:
    """The first argument's type with another number of features."""
    shape = dims(call.args[0])
    shape[1 if call.attrs["layout"] == "tiles" else -1] = features
    return relax.TensorType(shape, call.args[0].ty.dtype)


def _merged_heads(call: relax.Call) -> relax.TensorType:
    """[B, S, heads * Dv] of the query's tokens and the values' width."""
    _, batch, heads, tokens, _ = dims(call.args[0])
    return relax.TensorType([batch, tokens, heads * dims(call.args[2])[-1]], call.args[0].ty.dtype)


def _legalize_linear(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    x, weight, bias, residual = linear_args(call)
    result = relax.op.matmul(x, weight)
    if bias is not None:
        result = relax.op.add(result, bias)
    result = PLAIN_ACTIVATIONS[call.attrs["activation"]](result)
    return builder.normalize(result if residual is None else relax.op.add(result, residual))


PLAIN_ACTIVATIONS: dict[str, Callable[[relax.Expr], relax.Expr]] = {
    "none": lambda x: x,
    "relu": relax.op.nn.relu,
    "gelu": relax.op.nn.gelu,
    "gelu_tanh": relax.op.nn.gelu_tanh,
    "tanh": relax.op.tanh,
    "sigmoid": relax.op.sigmoid,
    "silu": relax.op.nn.silu,
}
"""What a linear layer may end in, as plain Relax."""


def _legalize_layer_norm(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    x, gain, bias = call.args
    return builder.normalize(relax.op.nn.layer_norm(x, gain, bias, axes=[-1], epsilon=call.attrs["epsilon"]))


def _legalize_attention(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    query, key, value, *rest = call.args
    batch, length = call.args[-1].values
    heads = call.attrs["heads"]

    def split(x: relax.Expr, axes: list[int]) -> relax.Expr:
        width = dims(x)[-1] // heads
        return relax.op.permute_dims(relax.op.reshape(x, [batch, length, heads, width]), axes)

    weights = _plain_weights(call, split(query, [0, 2, 1, 3]), split(key, [0, 2, 3, 1]), rest[0])
    mixed = relax.op.permute_dims(relax.op.matmul(weights, split(value, [0, 2, 1, 3])), [0, 2, 1, 3])
    return builder.normalize(relax.op.reshape(mixed, [batch, length, dims(value)[-1]]))


def _legalize_cached_attention(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    *parts, places = call.args
    query, cached_keys, cached_values, new_keys, new_values = (
        relax.op.reshape(relax.op.strided_slice(part, [0], [int(place)], [int(place) + 1]), dims(part)[1:])
        for part, place in zip(parts[:5], places.values, strict=True)
    )
    keys, values = (
        relax.op.concat([builder.normalize(cached), builder.normalize(new)], axis=2)
        for cached, new in ((cached_keys, new_keys), (cached_values, new_values))
    )
    weights = _plain_weights(call, query, relax.op.permute_dims(keys, [0, 1, 3, 2]), parts[-1])
    mixed = relax.op.permute_dims(relax.op.matmul(weights, values), [0, 2, 1, 3])
    return builder.normalize(relax.op.reshape(mixed, dims(call)))


def _plain_weights(call: relax.Call, query: relax.Expr, keys: relax.Expr, mask: relax.Expr) -> relax.Expr:
    """The softmax of an attention's scores; keys: [B, heads, D, keys]. mask: not read where there is none."""
    scores = relax.op.multiply(relax.op.matmul(query, keys), relax.const(call.attrs["scale"], "float32"))
    lowest = relax.const(float("-inf"), "float32")
    if call.attrs["mask"]:
        scores = (
            relax.op.where(mask, scores, lowest) if mask.ty.dtype == "bool" else relax.op.add(scores, mask)
        )
    weights = relax.op.nn.softmax(scores, axis=-1)
    if call.attrs["nan_to_zero"]:
        weights = relax.op.where(relax.op.isnan(weights), relax.const(0.0, "float32"), weights)
    return weights


def _register(
    name: str,
    infer: Callable[[relax.Call], relax.Type],
    legalize: Callable[[relax.BlockBuilder, relax.Call], relax.Expr] | None = None,
) -> None:
    full = f"relax.espalier.{name}"
    if full not in Op.list_op_names():
        _ffi_api.RegisterOp(full, name)
    op = Op.get(full)
    op.set_attr("FPurity", True)
    op.set_attr("FInferType", lambda call, _builder: infer(call))
    if legalize is not None:
        op.set_attr("FLegalize", legalize)


_register("linear", lambda call: _features_like(call, dims(call.args[1])[1]), _legalize_linear)
_register("layer_norm", lambda call: call.args[0].ty, _legalize_layer_norm)
_register(
    "attention",
    lambda call: _features_like(call, dims(call.args[2])[1 if call.attrs["layout"] == "tiles" else -1]),
    _legalize_attention,
)
_register("cached_attention", _merged_heads, _legalize_cached_attention)
_register(
    "to_tiles",
    lambda call: relax.TensorType(
        [tiles(product(dims(call.args[0])[:-1])), dims(call.args[0])[-1], TILE], call.args[0].ty.dtype
    ),
)
_register("from_tiles", lambda call: relax.TensorType(call.args[1].values, call.args[0].ty.dtype))
