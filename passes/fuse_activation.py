"""Fuse activations: the decomposed forms of GELU (erf and tanh) and SiLU become one operator each.

Not handled: QuickGELU, which stays a multiply by a sigmoid.
"""

from __future__ import annotations

import math

import tvm
from tvm import relax

from espalier.passes.graph import Emit, Scope, array, is_number, rewrite, scalar


def run(mod: tvm.IRModule) -> tvm.IRModule:
    """Rewrite `main`."""
    return rewrite(mod, _visit)


def _visit(value: relax.Expr, scope: Scope, _emit: Emit) -> relax.Expr | None:
    if scope.call(value, "multiply", "divide") is None:
        return None
    coefficient, parts = factors(value, scope)
    if len(parts) != 2:
        return None
    for x, gate in (parts, parts[::-1]):
        if math.isclose(coefficient, 0.5, rel_tol=1e-3):
            if _is_one_plus_erf(gate, x, scope):
                return relax.op.nn.gelu(x)
            if _is_one_plus_tanh(gate, x, scope):
                return relax.op.nn.gelu_tanh(x)
        sigmoid = scope.call(gate, "sigmoid")
        if coefficient == 1.0 and sigmoid is not None and sigmoid.args[0].same_as(x):
            return relax.op.nn.silu(x)
    return None


def factors(value: relax.Expr, scope: Scope) -> tuple[float, list[relax.Expr]]:
    """A product as one number times the factors that are no numbers."""
    call = scope.call(value, "multiply", "divide")
    if call is None:
        return 1.0, [value]
    left, right = call.args
    if scope.call(value, "divide") is not None:
        number = scalar(right)
        if number is None or number == 0:
            return 1.0, [value]
        coefficient, parts = factors(left, scope)
        return coefficient / number, parts
    coefficient, parts = 1.0, []
    for side in (left, right):
        number = scalar(side)
        if number is not None:
            coefficient *= number
        elif array(side) is not None:
            parts.append(side)
        else:
            inner, more = factors(side, scope)
            coefficient, parts = coefficient * inner, parts + more
    return coefficient, parts


def _is_one_plus(gate: relax.Expr, name: str, scope: Scope) -> relax.Expr | None:
    """The argument of the function in `1 + name(argument)`."""
    add = scope.call(gate, "add")
    if add is None:
        return None
    for one, other in (add.args, list(add.args)[::-1]):
        function = scope.call(other, name)
        if is_number(one, 1.0) and function is not None:
            return function.args[0]
    return None


def _is_one_plus_erf(gate: relax.Expr, x: relax.Expr, scope: Scope) -> bool:
    argument = _is_one_plus(gate, "erf", scope)
    if argument is None:
        return False
    coefficient, parts = factors(argument, scope)
    return math.isclose(coefficient, math.sqrt(0.5), rel_tol=1e-3) and _same(parts, [x])


def _is_one_plus_tanh(gate: relax.Expr, x: relax.Expr, scope: Scope) -> bool:
    argument = _is_one_plus(gate, "tanh", scope)
    if argument is None:
        return False
    coefficient, parts = factors(argument, scope)
    if not math.isclose(coefficient, math.sqrt(2 / math.pi), rel_tol=1e-3) or len(parts) != 1:
        return False
    add = scope.call(parts[0], "add")
    return add is not None and any(
        linear.same_as(x) and _is_cube(cubic, x, scope) for linear, cubic in (add.args, list(add.args)[::-1])
    )


def _is_cube(value: relax.Expr, x: relax.Expr, scope: Scope) -> bool:
    """Whether a value is 0.044715 x^3."""
    coefficient, parts = factors(value, scope)
    if not math.isclose(coefficient, 0.044715, rel_tol=1e-3):
        return False
    power = scope.call(parts[0], "power") if len(parts) == 1 else None
    if power is not None:
        return power.args[0].same_as(x) and is_number(power.args[1], 3.0)
    return _same(parts, [x, x, x])


def _same(left: list[relax.Expr], right: list[relax.Expr]) -> bool:
    return len(left) == len(right) and all(a.same_as(b) for a, b in zip(left, right, strict=True))
