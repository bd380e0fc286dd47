"""A model on samples, with any of its linear layers as if they were computed on integers.

The trial is the model after fusion, in float32 and built for this machine, with the weights of its linear
layers and the quantisation of their inputs as arguments: one compilation serves every experiment.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from tvm import relax

from espalier.codegen.llvm import build
from espalier.passes import ops
from espalier.passes.graph import bindings, dims, operator, substitute
from espalier.passes.state import State
from espalier.runtime.executor import Executor
from espalier.runtime.signature import Signature, Tensor
from espalier.schedules import Quantization
from espalier.targets.host import host

TINY = 1e-30
MODES = {"static": 1.0, "token": 2.0}
"""How `main` is told to round an input; 0: not at all."""


@dataclass(frozen=True)
class LinearLayer:
    """name, the variable it reads, and the parameter that holds its weight."""

    name: str
    x: relax.Var
    weight: str


def linear_layers(state: State) -> list[LinearLayer]:
    """The linear layers of a module, in order."""
    calls: list[Any] = [value for _, value in bindings(state.mod) if operator(value) == "espalier.linear"]
    return [LinearLayer(call.attrs["layer"], call.args[0], ops.linear_args(call)[1].name) for call in calls]


class Trial:
    """inputs: the model's, by name in their order. levels: the largest integer."""

    def __init__(self, state: State, inputs: Sequence[str], levels: int) -> None:
        self.inputs = tuple(inputs)
        self.levels = levels
        self.layers = linear_layers(state)
        self._weights = {layer.name: state.weights[layer.weight].array for layer in self.layers}
        mod, self._outputs = _instrumented(state, self.layers, levels)
        linear = {layer.weight for layer in self.layers}
        held: Any = {name: weight.array for name, weight in state.weights.items() if name not in linear}
        self._library = build(relax.transform.BindParams("main", held)(mod), host()).library
        self._executors: dict[Hashable, Executor] = {}

    def run(
        self,
        inputs: Mapping[str, np.ndarray],
        settings: Mapping[str, Quantization],
        weights: Mapping[str, np.ndarray],
    ) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
        """(the model's outputs, the input of each layer `[tokens, K]`).

        settings and weights `[K, N]` by layer; the others stay float. Settings hold for `levels` levels.
        """
        arrays = {name: inputs[name] for name in self.inputs}
        for i, (name, weight) in enumerate(self._weights.items()):
            arrays[f"$setting{i}"], arrays[f"$factors{i}"] = _told(settings.get(name), len(weight))
            arrays[f"$weight{i}"] = weights.get(name, weight)
        results = self._execute(arrays)
        count = len(results) - len(self.layers)
        captured = {
            layer.name: x.reshape(-1, x.shape[-1])
            for layer, x in zip(self.layers, results[count:], strict=True)
        }
        return results[:count], captured

    def _execute(self, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        given = tuple(Tensor(name, array.shape, array.dtype.name) for name, array in arrays.items())
        if given not in self._executors:
            names = tuple(Tensor(f"$out{i}", (), "float32") for i in range(self._outputs))
            self._executors[given] = Executor(self._library, Signature(given, names, {}), threads=1)
        return list(self._executors[given].run(arrays).values())


def _told(setting: Quantization | None, features: int) -> tuple[np.ndarray, np.ndarray]:
    """A setting as `main` reads it: (mode, scale, zero), and the factors of the features."""
    if setting is None:
        return np.array([0, 1, 0], np.float32), np.ones(features, np.float32)
    factors = setting.factors or np.ones(features)
    told = [MODES[setting.mode], setting.scale, setting.zero]
    return np.array(told, np.float32), np.asarray(factors, np.float32)


def _instrumented(state: State, layers: Sequence[LinearLayer], levels: int) -> tuple[tvm.IRModule, int]:
    """`main(inputs..., a setting, factors and a weight a layer..., other weights...)`, and the number of its
    outputs: the model's, then the input of each layer."""
    old = state.mod["main"]
    count = int(old.attrs["num_input"])
    linear = {layer.weight for layer in layers}
    known = {param.name: param for param in old.params}
    told: dict[str, list[relax.Var]] = {}
    for i, layer in enumerate(layers):
        k, n = dims(known[layer.weight])
        shapes = {f"setting{i}": [3], f"factors{i}": [k], f"weight{i}": [k, n]}
        told[layer.name] = [
            relax.Var(name, relax.TensorType(size, "float32")) for name, size in shapes.items()
        ]
    extra = [var for each in told.values() for var in each]
    params = [*old.params[:count], *extra, *(each for each in old.params[count:] if each.name not in linear)]
    builder = relax.BlockBuilder()
    new: dict[relax.Var, relax.Expr] = {}
    seen: list[relax.Expr] = []
    attrs: dict[str, Any] = {
        key: value for key, value in old.attrs.items() if key not in ("global_symbol", "num_input")
    }
    attrs["num_input"] = count + len(extra)
    with builder.function("main", params, attrs=attrs):
        with builder.dataflow():
            for var, value in bindings(state.mod):
                value = substitute(value, new)
                if operator(value) == "espalier.linear":
                    setting, factors, weight = told[value.attrs["layer"]]
                    x, _, *rest = value.args
                    seen.append(x)
                    fake = _rounded(builder, x, setting, factors, levels)
                    value = relax.Call(value.op, [fake, weight, *rest], value.attrs, value.ty_args)
                new[var] = builder.emit(builder.normalize(value), var.name)
            outputs = _fields(builder, substitute(old.body.body, new), old.body.body.ty)
            out = builder.emit_output(builder.normalize(relax.Tuple([*outputs, *seen])))
        builder.emit_func_output(out)
    return relax.transform.DeadCodeElimination(["main"])(builder.get()), len(outputs) + len(seen)


def _fields(builder: relax.BlockBuilder, result: relax.Expr, ty: relax.Type) -> list[relax.Expr]:
    """The outputs of a model, one or several."""
    if isinstance(result, relax.Tuple):
        return list(result.fields)
    if isinstance(ty, relax.TupleType):
        return [builder.emit(relax.TupleGetItem(result, index)) for index in range(len(ty.fields))]
    return [result]


def _rounded(
    builder: relax.BlockBuilder, x: relax.Expr, setting: relax.Var, factors: relax.Var, levels: int
) -> relax.Expr:
    """x as the integers that stand for it, in float."""
    op: Any = relax.op

    def number(value: float) -> relax.Expr:
        return relax.const(value, "float32")

    def emit(value: relax.Expr) -> relax.Expr:
        return builder.emit(builder.normalize(value))

    mode, scale, zero = (emit(op.strided_slice(setting, [0], [i], [i + 1])) for i in range(3))
    value = emit(op.multiply(x, factors))
    low = emit(op.minimum(emit(op.min(value, axis=-1, keepdims=True)), number(0)))
    high = emit(op.maximum(emit(op.max(value, axis=-1, keepdims=True)), number(0)))
    step = emit(op.maximum(emit(op.divide(emit(op.subtract(high, low)), number(levels))), number(TINY)))
    point = emit(op.round(emit(op.negative(emit(op.divide(low, step))))))
    by_token = emit(op.greater(mode, number(1.5)))
    scale, zero = emit(op.where(by_token, step, scale)), emit(op.where(by_token, point, zero))
    least = emit(op.negative(zero))
    whole = emit(op.round(emit(op.divide(value, scale))))
    whole = emit(op.minimum(emit(op.maximum(whole, least)), emit(op.add(least, number(levels)))))
    # a feature with factor 0 is read by no weight
    back = emit(op.divide(emit(op.multiply(whole, scale)), emit(op.maximum(factors, number(TINY)))))
    return emit(op.where(emit(op.greater(mode, number(0.5))), back, x))
