"""Layout: keep activations feature-major in tiles between the operators that have kernels for it.

Going forward, each operator that can work on tiles gets the tiles of its inputs and its result is turned back
with `from_tiles`. A later reader that can use tiles looks through that conversion, so that pairs of
conversions never arise, and what nobody reads is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import tvm
from tvm import relax

from espalier.passes import ops
from espalier.passes.graph import Emit, Scope, array, dims, operator, rewrite, same_dims, scalar

ELEMENTWISE = frozenset(
    {
        *("abs", "cos", "erf", "exp", "log", "negative", "rsqrt", "sigmoid", "sin", "sqrt", "square", "tanh"),
        *("add", "divide", "maximum", "minimum", "multiply", "power", "subtract"),
        *("nn.gelu", "nn.gelu_tanh", "nn.relu", "nn.silu"),
    }
)
"""Operators that act on each element by itself, so that they mean the same in both layouts."""


def run(mod: tvm.IRModule, layouts: Mapping[str, str]) -> tvm.IRModule:
    """Rewrite `main`; `layouts` maps each linear layer to the layout of the kernel chosen for it.

    Where no layer works on tiles normalisation stays among the tokens too, unless its input is in tiles.
    """
    rules = _RULES if "tiles" in layouts.values() else {**_RULES, "espalier.layer_norm": _norm_of_tiles}

    def visit(value: relax.Expr, scope: Scope, emit: Emit) -> relax.Expr | None:
        name = operator(value)
        if name == "espalier.linear":
            return _linear(value, scope, emit) if layouts[value.attrs["layer"]] == "tiles" else None
        if name in rules:
            return rules[name](value, scope, emit)
        if name in ELEMENTWISE:
            return _elementwise(value, scope, emit)
        if isinstance(value, relax.TupleGetItem):
            whole = scope.value(value.tuple_value)
            return whole.fields[value.index] if isinstance(whole, relax.Tuple) else None
        return None

    return rewrite(mod, visit)


def _known_tiles(value: relax.Expr, scope: Scope) -> relax.Expr | None:
    """The tiles that a tensor in tokens was made from."""
    while (reshape := scope.call(value, "reshape")) is not None:
        if not same_dims(dims(reshape.args[0])[-1:], dims(value)[-1:]):
            return None
        value = reshape.args[0]
    call = scope.call(value, "espalier.from_tiles")
    return call.args[0] if call is not None else None


def _tiles(value: relax.Expr, scope: Scope, emit: Emit) -> relax.Expr:
    known = _known_tiles(value, scope)
    return emit(ops.to_tiles(value)) if known is None else known


def _tokens(tiles: relax.Expr, like: list, emit: Emit) -> relax.Expr:
    return ops.from_tiles(emit(tiles), like)


def _linear(value: relax.Call, scope: Scope, emit: Emit) -> relax.Expr:
    x, weight, bias, residual = ops.linear_args(value)
    args = [_tiles(x, scope, emit), weight]
    if bias is not None:
        args.append(bias)
    if residual is not None:
        args.append(_tiles(residual, scope, emit))
    shape = [*dims(x)[:-1], dims(weight)[1]]
    return _tokens(ops.linear_in_tiles(value, args), shape, emit)


def _layer_norm(value: relax.Call, scope: Scope, emit: Emit) -> relax.Expr | None:
    x, gain, bias = value.args
    if not isinstance(dims(x)[-1], int):
        return None
    return _tokens(ops.with_layout(value, [_tiles(x, scope, emit), gain, bias], "tiles"), dims(x), emit)


def _norm_of_tiles(value: relax.Call, scope: Scope, emit: Emit) -> relax.Expr | None:
    return None if _known_tiles(value.args[0], scope) is None else _layer_norm(value, scope, emit)


def _attention(value: relax.Call, scope: Scope, emit: Emit) -> relax.Expr:
    query, key, val, *rest = value.args
    args = [*(_tiles(part, scope, emit) for part in (query, key, val)), *rest]
    batch, length = value.args[-1].values
    return _tokens(ops.with_layout(value, args, "tiles"), [batch, length, dims(val)[-1]], emit)


def _split(value: relax.Call, scope: Scope, emit: Emit) -> relax.Expr | None:
    x = value.args[0]
    tiles = _known_tiles(x, scope)
    if tiles is None or int(value.attrs.axis) not in (-1, len(dims(x)) - 1):
        return None
    sections = value.attrs.indices_or_sections
    sections = int(sections) if isinstance(sections, tvm.tirx.IntImm | int) else [int(i) for i in sections]
    parts = emit(relax.op.split(tiles, sections, axis=1))
    fields = []
    for index in range(len(parts.ty.fields)):
        part = emit(relax.TupleGetItem(parts, index))
        fields.append(emit(ops.from_tiles(part, [*dims(x)[:-1], dims(part)[1]])))
    return relax.Tuple(fields)


def _elementwise(value: relax.Call, scope: Scope, emit: Emit) -> relax.Expr | None:
    known = [_known_tiles(arg, scope) for arg in value.args]
    shapes = [dims(arg) for arg in value.args if _known_tiles(arg, scope) is not None]
    if not shapes:
        return None
    shape = max(shapes, key=len)
    args = []
    for arg, tiles in zip(value.args, known, strict=True):
        if scalar(arg) is not None:
            args.append(arg)
        elif same_dims(dims(arg), shape):
            args.append(emit(ops.to_tiles(arg)) if tiles is None else tiles)
        elif same_dims(dims(arg), shape[-1:]):
            args.append(_column(arg, emit))
        else:
            return None
    return _tokens(relax.Call(value.op, args, value.attrs, value.ty_args), shape, emit)


def _column(vector: relax.Expr, emit: Emit) -> relax.Expr:
    """A vector over the features as it broadcasts in tiles: [K] -> [K, 1]."""
    held = array(vector)
    if held is not None:
        return relax.const(held.reshape(-1, 1))
    return emit(relax.op.reshape(vector, [dims(vector)[0], 1]))


_RULES: dict[str, Callable[[relax.Call, Scope, Emit], relax.Expr | None]] = {
    "espalier.layer_norm": _layer_norm,
    "espalier.attention": _attention,
    "split": _split,
}
