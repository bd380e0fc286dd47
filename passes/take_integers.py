"""Take integers: linear layers that the model itself gives as integers are computed so.

Handled: `dequantise(quantise(x)) @ W`, where every column of W is integers of 9 bits times a scale. Scale
and zero point of x are constants of 8 bits for all of x, as in models with QuantizeLinear and
DequantizeLinear, or come from its own range, as DynamicQuantizeLinear defines. The layer then reads x itself,
which is rounded to the same integers; what is multiplied and added up are integers, or the floats that these
stand for.
Not handled: a scale for each token or feature, which stays as the model writes it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from tvm import relax

from espalier.passes import ops
from espalier.passes.graph import Emit, Scope, dims, is_single, operator, rewrite, scalar
from espalier.passes.state import State
from espalier.schedules import Quantization
from espalier.schedules.x86.int8_dot import PAIRS
from espalier.schedules.x86.int8_pack import integers

SHIFT = {"uint8": 0, "int8": 128}
"""From a zero point of a type to that of the same integers as u8."""


def run(state: State) -> State:
    """Rewrite `main` and fill `quantized`."""
    found: dict[str, Quantization] = {}

    def visit(value: relax.Expr, scope: Scope, _emit: Emit) -> relax.Expr | None:
        if operator(value) != "espalier.linear":
            return None
        call: Any = value
        x, weight, *_ = ops.linear_args(call)
        entries: Any = dims(weight)[0]
        source = _source(x, scope)
        if source is None or not PAIRS.holds(entries):
            return None
        if integers(np.ascontiguousarray(state.weights[weight.name].array.T)) is None:
            return None
        floats, found[value.attrs["layer"]] = source
        return relax.Call(value.op, [floats, *value.args[1:]], value.attrs, value.ty_args)

    mod = rewrite(state.mod, visit)
    return replace(state, mod=mod, quantized={**state.quantized, **found})


def _source(x: relax.Expr, scope: Scope) -> tuple[relax.Expr, Quantization] | None:
    """What x was rounded from, and how."""
    scaled = scope.call(x, "multiply")
    if scaled is None:
        return None
    return _static(scaled, scope) or _dynamic(scaled, scope)


def _static(scaled: relax.Call, scope: Scope) -> tuple[relax.Expr, Quantization] | None:
    """For constants."""
    scale = scalar(scaled.args[1])
    shifted = scope.call(scaled.args[0], "subtract")
    zero = 0.0 if shifted is None else scalar(shifted.args[1])
    widened = scope.call(scaled.args[0] if shifted is None else shifted.args[0], "astype")
    narrowed = None if widened is None else scope.call(widened.args[0], "astype")
    if scale is None or zero is None or narrowed is None or str(narrowed.attrs.dtype) not in SHIFT:
        return None
    whole = _unclipped(narrowed.args[0], str(narrowed.attrs.dtype), scope)
    if whole is not None and zero != 0:
        added = scope.call(whole, "add")
        whole = added.args[0] if added is not None and scalar(added.args[1]) == zero else None
    rounded = None if whole is None else scope.call(whole, "round")
    divided = None if rounded is None else scope.call(rounded.args[0], "divide")
    if divided is None or scalar(divided.args[1]) != scale or divided.args[0].ty.dtype != "float32":
        return None
    shift = SHIFT[str(narrowed.attrs.dtype)]
    return divided.args[0], Quantization("static", scale, int(zero) + shift, given=True)


def _dynamic(scaled: relax.Call, scope: Scope) -> tuple[relax.Expr, Quantization] | None:
    """For what DynamicQuantizeLinear defines."""
    centred, scale = scaled.args
    shifted = scope.call(_uncast(centred, scope), "subtract")
    if shifted is None:
        return None
    whole, point = (_uncast(arg, scope) for arg in shifted.args)
    whole = _unclipped(whole, "uint8", scope)
    added = None if whole is None else scope.call(whole, "add")
    rounded = None if added is None else scope.call(added.args[0], "round")
    divided = None if rounded is None else scope.call(rounded.args[0], "divide")
    if added is None or divided is None:
        return None
    x = divided.args[0]
    low = _low_of_scale(scale, x, scope)
    whole = _unclipped(point, "uint8", scope)
    rounded = None if whole is None else scope.call(whole, "round")
    negated = None if rounded is None else scope.call(rounded.args[0], "negative")
    quotient = None if negated is None else scope.call(negated.args[0], "divide")
    if low is None or quotient is None or x.ty.dtype != "float32":
        return None
    pairs = (
        (quotient.args[0], low),
        (quotient.args[1], scale),
        (divided.args[1], scale),
        (added.args[1], point),
    )
    if not all(scope.value(left).same_as(scope.value(right)) for left, right in pairs):
        return None
    return x, Quantization("tensor", given=True)


def _low_of_scale(scale: relax.Expr, x: relax.Expr, scope: Scope) -> relax.Expr | None:
    """`low` where the scale is `(high - low) / 255` of the range of all of x and 0, and 1 where that is 0."""
    chosen = scope.call(scale, "where")
    step = None if chosen is None or scalar(chosen.args[1]) != 1 else scope.call(chosen.args[2], "divide")
    is_zero = None if chosen is None else scope.call(chosen.args[0], "equal")
    width = None if step is None or scalar(step.args[1]) != 255 else scope.call(step.args[0], "subtract")
    if width is None or is_zero is None or scalar(is_zero.args[1]) != 0:
        return None
    if not scope.value(is_zero.args[0]).same_as(step):
        return None
    for end, outer, inner in zip(width.args, ("maximum", "minimum"), ("max", "min"), strict=True):
        with_zero = scope.call(end, outer)
        if with_zero is None or scalar(with_zero.args[1]) != 0:
            return None
        of_all = scope.call(with_zero.args[0], inner)
        if of_all is None or not of_all.args[0].same_as(x) or not is_single(of_all):
            return None
    return width.args[1]


def _uncast(value: relax.Expr, scope: Scope) -> relax.Expr:
    """What a value was before casts between integers and floats."""
    while (cast := scope.call(value, "astype")) is not None:
        value = cast.args[0]
    return value


def _unclipped(value: relax.Expr, dtype: str, scope: Scope) -> relax.Expr | None:
    """y of `minimum(maximum(y, low), high)` with the bounds of a type."""
    bounds = np.iinfo(dtype)
    upper = scope.call(value, "minimum")
    lower = None if upper is None else scope.call(upper.args[0], "maximum")
    if upper is None or lower is None:
        return None
    fits = scalar(upper.args[1]) == bounds.max and scalar(lower.args[1]) == bounds.min
    return lower.args[0] if fits else None
