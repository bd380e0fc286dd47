"""Fuse linear layers: a product with a weight, its bias, its activation and the residual that is added to it.

Handled: float32 `matmul(x, w)` with a two-dimensional parameter on the right. Whatever follows is taken in
while nothing else reads the value before it.
"""

from __future__ import annotations

from collections.abc import Iterable

import tvm
from tvm import relax

from espalier.passes import ops
from espalier.passes.graph import Emit, Scope, dims, operator, rewrite, same_dims

ACTIVATIONS = {
    "nn.relu": "relu",
    "nn.gelu": "gelu",
    "nn.gelu_tanh": "gelu_tanh",
    "nn.silu": "silu",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
}
"""Relax operator to the name of the kernels' activation."""


def run(mod: tvm.IRModule, weights: Iterable[str]) -> tvm.IRModule:
    """Rewrite `main`; `weights` are the names of its parameters that hold constants."""
    constants = set(weights)
    taken: dict[str, int] = {}

    def visit(value: relax.Expr, scope: Scope, _emit: Emit) -> relax.Expr | None:
        match operator(value):
            case "matmul":
                return _product(value, constants, taken)
            case "add":
                return _sum(value, constants, scope)
            case name if name in ACTIVATIONS:
                return _activated(value, ACTIVATIONS[name], scope)
        return None

    return rewrite(mod, visit)


def _product(call: relax.Call, constants: set[str], taken: dict[str, int]) -> relax.Expr | None:
    x, weight = call.args
    if not isinstance(weight, relax.Var) or weight.name not in constants or len(dims(weight)) != 2:
        return None
    if len(dims(x)) < 2 or x.ty.dtype != "float32" or weight.ty.dtype != "float32":
        return None
    # a weight that two nodes share makes two layers
    taken[weight.name] = count = taken.get(weight.name, 0) + 1
    return ops.linear(x, weight, layer=weight.name if count == 1 else f"{weight.name}#{count}")


def _open(value: relax.Expr, scope: Scope) -> relax.Call | None:
    """The linear layer that defines a value which nothing else reads."""
    call = scope.call(value, "espalier.linear")
    return call if call is not None and scope.uses(value) == 1 else None


def _sum(call: relax.Call, constants: set[str], scope: Scope) -> relax.Expr | None:
    for product, other in (call.args, list(call.args)[::-1]):
        layer = _open(product, scope)
        if layer is None:
            continue
        x, weight, bias, residual = ops.linear_args(layer)
        settings = {"layer": layer.attrs["layer"], "activation": layer.attrs["activation"]}
        is_plain = bias is None and residual is None and settings["activation"] == "none"
        if is_plain and _is_bias(other, dims(weight)[1], constants):
            return ops.linear(x, weight, other, None, **settings)
        if residual is None and not product.same_as(other) and same_dims(dims(other), dims(product)):
            return ops.linear(x, weight, bias, other, **settings)
    return None


def _is_bias(value: relax.Expr, features: int, constants: set[str]) -> bool:
    is_constant = isinstance(value, tvm.ir.GenericConst) or (
        isinstance(value, relax.Var) and value.name in constants
    )
    return is_constant and dims(value) == [features]


def _activated(call: relax.Call, activation: str, scope: Scope) -> relax.Expr | None:
    layer = _open(call.args[0], scope)
    if layer is None:
        return None
    x, weight, bias, residual = ops.linear_args(layer)
    if residual is not None or layer.attrs["activation"] != "none":
        return None
    return ops.linear(x, weight, bias, None, layer=layer.attrs["layer"], activation=activation)
