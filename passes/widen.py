"""Widen: what a model computes in float16 is computed in float32, as CPUs without float16 arithmetic do.

Inputs and outputs keep their types. Rounding to float16 on the way is left out, so results are nearer to the
float32 model than those of the float16 one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import tvm
from tvm import relax

from espalier.passes.frontend import Weight
from espalier.passes.graph import array, bindings, operator, substitute
from espalier.passes.state import State

NARROW, WIDE = "float16", "float32"


def run(state: State) -> State:
    """Rewrite `main` and the weights; a module without float16 stays as it is."""
    main = state.mod["main"]
    values = [*main.params, *(var for var, _ in bindings(state.mod))]
    if not any(_is_narrow(value) for value in values):
        return state
    weights = {name: _wide_weight(weight) for name, weight in state.weights.items()}
    return replace(state, mod=_rewrite(state.mod, weights), weights=weights)


def _is_narrow(value: relax.Expr) -> bool:
    return isinstance(value.ty, relax.TensorType) and value.ty.dtype == NARROW


def _wide_weight(weight: Weight) -> Weight:
    return replace(weight, array=weight.array.astype(WIDE)) if weight.array.dtype == NARROW else weight


def _rewrite(mod: tvm.IRModule, weights: Mapping[str, Weight]) -> tvm.IRModule:
    old = mod["main"]
    builder = relax.BlockBuilder()
    params = [
        relax.Var(param.name, relax.TensorType(param.ty.shape, WIDE))
        if param.name in weights and _is_narrow(param)
        else param
        for param in old.params
    ]
    new: dict[relax.Var, relax.Expr] = dict(zip(old.params, params, strict=True))
    attrs = {key: value for key, value in (old.attrs or {}).items() if key != "global_symbol"}
    with builder.function("main", params, attrs=attrs):
        with builder.dataflow():
            for param in old.params:
                if _is_narrow(new[param]):
                    new[param] = builder.emit(relax.op.astype(param, WIDE))
            for var, value in bindings(mod):
                new[var] = builder.emit(_wide(builder, substitute(value, new)), var.name)
            result = builder.normalize(substitute(old.body.body, new))
            result = builder.emit_output(_like(builder, result, old.body.body.ty))
        builder.emit_func_output(result)
    return builder.get()


def _wide(builder: relax.BlockBuilder, value: relax.Expr) -> relax.Expr:
    """A value over wide variables, wide itself."""
    if isinstance(value, relax.Call):
        if operator(value) == "astype" and value.attrs.dtype == NARROW:
            value = relax.op.astype(value.args[0], WIDE)
        else:
            value = relax.Call(
                value.op, [_wide_constant(arg) for arg in value.args], value.attrs, value.ty_args
            )
    value = builder.normalize(value)
    # operators that make a tensor name its type themselves
    return relax.op.astype(builder.emit(value), WIDE) if _is_narrow(value) else value


def _wide_constant(arg: relax.Expr) -> relax.Expr:
    held = array(arg)
    return relax.const(held.astype(WIDE)) if held is not None and held.dtype == np.float16 else arg


def _like(builder: relax.BlockBuilder, result: relax.Expr, ty: relax.Type) -> relax.Expr:
    """The result with the types that the model gave its outputs."""
    if isinstance(ty, relax.TupleType):
        fields = [builder.emit(relax.TupleGetItem(result, index)) for index in range(len(ty.fields))]
        return relax.Tuple([_like(builder, *pair) for pair in zip(fields, ty.fields, strict=True)])
    is_cast = isinstance(ty, relax.TensorType) and ty.dtype == NARROW
    return builder.emit(relax.op.astype(result, NARROW)) if is_cast else result
