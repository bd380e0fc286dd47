"""Take integers: linear layers that the model itself gives as integers are computed so.

Handled: `dequantise(quantise(x)) @ W` with constant scale and zero point of 8 bits for all of x, where every
column of W is integers of 9 bits times a scale, as in models with QuantizeLinear and DequantizeLinear. The
layer then reads x itself; its kernel rounds x to the same integers and sums them exactly.
Not handled: scales that are computed at run time, which stay as the model writes them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from tvm import relax

from espalier.passes import ops
from espalier.passes.graph import Emit, Scope, dims, operator, rewrite, scalar
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


def _unclipped(value: relax.Expr, dtype: str, scope: Scope) -> relax.Expr | None:
    """y of `minimum(maximum(y, low), high)` with the bounds of a type."""
    bounds = np.iinfo(dtype)
    upper = scope.call(value, "minimum")
    lower = None if upper is None else scope.call(upper.args[0], "maximum")
    if upper is None or lower is None:
        return None
    fits = scalar(upper.args[1]) == bounds.max and scalar(lower.args[1]) == bounds.min
    return lower.args[0] if fits else None
