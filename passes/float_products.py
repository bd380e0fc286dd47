"""Float products: products of integers that are scaled right after become products of what they stand for.

    float(x) @ int(W) * (s * scales)  -->  (float(x) * s) @ (W * scales)

Handled: `matmul(x, W)` in int32 with 8-bit x, a zero point subtracted or not, and a constant W of two
dimensions, as MatMulInteger and its fused forms give it; s is a number computed at run time, scales are
constants. The product is then a linear layer like any other; take_integers.py may find that x is rounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tvm import relax

from espalier.passes.frontend import Weight
from espalier.passes.graph import Emit, Scope, array, dims, is_single, rewrite
from espalier.passes.state import State

BYTES = ("int8", "uint8")


@dataclass(frozen=True)
class _Product:
    """x: int32, of 8 or 9 bits. weight: the parameter. scale: of x, where there is one. constants: factors of
    the weight's columns."""

    x: relax.Expr
    weight: relax.Var
    scale: relax.Expr | None
    constants: tuple[relax.Expr, ...]

    @property
    def key(self) -> tuple[relax.Expr, ...]:
        """What the float weight is made of."""
        return (self.weight, *self.constants)


def run(state: State) -> State:
    """Rewrite `main`; every weight of such a product gets a float one beside it."""
    weights = state.weights
    floats: dict[str, Weight] = {}
    params: dict[tuple[relax.Expr, ...], relax.Var] = {}

    def find(value: relax.Expr, scope: Scope, _emit: Emit) -> None:
        found = _product(value, scope, weights)
        if found is None or found.key in params:
            return
        given = weights[found.weight.name]
        matrix = given.array.astype(np.float32)
        for constant in found.constants:
            matrix = matrix * _number(constant, weights).reshape(-1)
        name = f"{found.weight.name}_float{len(floats)}"
        floats[name] = replace(given, array=matrix)
        params[found.key] = relax.Var(name, relax.TensorType(list(matrix.shape), "float32"))

    rewrite(state.mod, find)
    if not floats:
        return state

    def visit(value: relax.Expr, scope: Scope, emit: Emit) -> relax.Expr | None:
        found = _product(value, scope, weights)
        if found is None:
            return None
        x = emit(relax.op.astype(found.x, "float32"))
        x = x if found.scale is None else emit(relax.op.multiply(x, found.scale))
        return relax.op.matmul(x, params[found.key])

    mod = rewrite(state.mod, visit, more=list(params.values()))
    return replace(state, mod=mod, weights={**weights, **floats})


def _product(value: relax.Expr, scope: Scope, weights: Mapping[str, Weight]) -> _Product | None:
    scaled = scope.call(value, "multiply")
    if scaled is None or scaled is not value:
        return None
    for total, factor in (scaled.args, list(scaled.args)[::-1]):
        widened = scope.call(total, "astype")
        matmul = None if widened is None else scope.call(widened.args[0], "matmul")
        if matmul is None or widened.ty.dtype != "float32" or matmul.ty.dtype != "int32":
            continue
        x, weight = matmul.args
        if not isinstance(weight, relax.Var) or weight.name not in weights or len(dims(weight)) != 2:
            continue
        factors = _factors(factor, scope)
        constants = tuple(one for one in factors if _is_constant(one, dims(weight)[1], weights))
        computed = [one for one in factors if not any(one is other for other in constants)]
        if len(computed) > 1 or not all(is_single(one) for one in computed) or not _is_small(x, scope):
            continue
        return _Product(x, weight, computed[0] if computed else None, constants)
    return None


def _factors(value: relax.Expr, scope: Scope) -> list[relax.Expr]:
    call = scope.call(value, "multiply")
    return [value] if call is None else [one for arg in call.args for one in _factors(arg, scope)]


def _is_small(x: relax.Expr, scope: Scope) -> bool:
    """Whether x is an 8-bit integer, or the difference of two."""
    shifted = scope.call(x, "subtract")
    casts = [scope.call(part, "astype") for part in ([x] if shifted is None else shifted.args)]
    # a zero point may be a constant that is int32 already
    known = [array(part) for part in ([] if shifted is None else shifted.args)]
    known = [one is not None and np.abs(one).max(initial=0) < 256 for one in known] or [False]
    return all(
        constant or (cast is not None and cast.args[0].ty.dtype in BYTES)
        for constant, cast in zip(known, casts, strict=True)
    )


def _is_constant(value: relax.Expr, features: int, weights: Mapping[str, Weight]) -> bool:
    number = _number(value, weights)
    return number is not None and number.size in (1, features)


def _number(value: relax.Expr, weights: Mapping[str, Weight]) -> Any:
    """The array of a constant or a weight."""
    if isinstance(value, relax.Var) and value.name in weights:
        return weights[value.name].array
    return array(value)
