"""Fuse layer normalisation: Relax's own operator, or the chain from mean to divide of older opsets.

Handled: normalisation of the last axis with a gain and a bias of that length.
"""

from __future__ import annotations

import tvm
from tvm import relax

from espalier.passes import ops
from espalier.passes.graph import Emit, Scope, dims, is_number, rewrite, same_dims, scalar


def run(mod: tvm.IRModule) -> tvm.IRModule:
    """Rewrite `main`."""
    return rewrite(mod, _visit)


def _visit(value: relax.Expr, scope: Scope, _emit: Emit) -> relax.Expr | None:
    whole = scope.call(value, "nn.layer_norm")
    if whole is not None:
        x, gain, bias = whole.args
        axes = [int(axis) for axis in whole.attrs.axes]
        rank = len(dims(x))
        if axes in ([-1], [rank - 1]) and whole.attrs.center and whole.attrs.scale and _is_f32(x):
            return ops.layer_norm(x, gain, bias, epsilon=float(whole.attrs.epsilon))
        return None
    add = scope.call(value, "add")
    if add is None:
        return None
    for scaled, bias in (add.args, list(add.args)[::-1]):
        multiply = scope.call(scaled, "multiply")
        if multiply is None:
            continue
        for normal, gain in (multiply.args, list(multiply.args)[::-1]):
            found = _normalised(normal, scope)
            if found is None:
                continue
            x, epsilon = found
            width = dims(x)[-1:]
            if _is_f32(x) and same_dims(dims(gain), width) and same_dims(dims(bias), width):
                return ops.layer_norm(x, gain, bias, epsilon=epsilon)
    return None


def _is_f32(x: relax.Expr) -> bool:
    return x.ty.dtype == "float32"


def _normalised(value: relax.Expr, scope: Scope) -> tuple[relax.Expr, float] | None:
    """(x, epsilon) of `(x - mean(x)) / sqrt(mean((x - mean(x))^2) + epsilon)`."""
    divide = scope.call(value, "divide")
    if divide is None:
        return None
    x = _centred(divide.args[0], scope)
    root = scope.call(divide.args[1], "sqrt")
    shifted = scope.call(root.args[0], "add") if root is not None else None
    if x is None or shifted is None:
        return None
    for variance, epsilon in (shifted.args, list(shifted.args)[::-1]):
        number = scalar(epsilon)
        mean = scope.call(variance, "mean")
        if number is None or mean is None or not _is_last_axis(mean):
            continue
        square = scope.call(mean.args[0], "power", "multiply", "square")
        if square is None:
            continue
        is_square = len(square.args) == 1 or (
            is_number(square.args[1], 2.0) or _is_same(square.args[1], square.args[0], scope)
        )
        centred = _centred(square.args[0], scope)
        if is_square and centred is not None and centred.same_as(x):
            return x, number
    return None


def _centred(value: relax.Expr, scope: Scope) -> relax.Expr | None:
    """x of `x - mean(x)`."""
    subtract = scope.call(value, "subtract")
    mean = scope.call(subtract.args[1], "mean") if subtract is not None else None
    if subtract is None or mean is None or not _is_last_axis(mean):
        return None
    return subtract.args[0] if mean.args[0].same_as(subtract.args[0]) else None


def _is_same(left: relax.Expr, right: relax.Expr, scope: Scope) -> bool:
    return left.same_as(right) or scope.value(left).same_as(scope.value(right))


def _is_last_axis(mean: relax.Call) -> bool:
    axes = [int(axis) for axis in mean.attrs.axis]
    return axes in ([-1], [len(dims(mean.args[0])) - 1]) and bool(mean.attrs.keepdims)
