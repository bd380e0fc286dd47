"""From plain operators to a Relax module."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from espalier.passes.frontend import size as sz
from espalier.passes.frontend.plain import OPS
from espalier.passes.frontend.size import Dim
from espalier.passes.frontend.values import Constant, Plain, Shape, Tensor

if TYPE_CHECKING:
    import tvm

INLINE_ELEMENTS = 16  # longer constants become parameters


@dataclass(frozen=True)
class Weight:
    """A named parameter: the ONNX initializer its bytes come from, the nodes that read it, its numbers."""

    name: str
    nodes: tuple[str, ...]
    array: np.ndarray


def module(plain: Plain, max_shapes: dict[str, int]) -> tuple[tvm.IRModule, dict[str, Weight]]:
    """`main(inputs..., weights...)` of Relax operators, and the weights by parameter name."""
    return _Emitter(plain).run(max_shapes)


class _Emitter:
    def __init__(self, plain: Plain) -> None:
        from tvm import relax

        self.relax: Any = relax
        self.plain = plain
        self.taken: set[str] = set()
        self.symbols: dict[str, Any] = {}
        self.exprs: dict[Tensor | Constant, Any] = {}
        self.weights: dict[str, Weight] = {}
        self.params: dict[tuple[Any, ...], Any] = {}

    def run(self, max_shapes: dict[str, int]) -> tuple[tvm.IRModule, dict[str, Weight]]:
        import tvm

        relax = self.relax
        inputs = []
        for tensor in self.plain.inputs:
            var = relax.Var(
                self._name(tensor.name), relax.TensorType(self._shape(tensor.shape), tensor.dtype)
            )
            self.exprs[tensor] = var
            inputs.append(var)
        weights = self._weights()
        block = relax.BlockBuilder()
        bounds = {
            str(self.symbols[name].name): bound for name, bound in max_shapes.items() if name in self.symbols
        }
        attrs: dict[str, Any] = {"num_input": len(inputs)}
        if bounds:
            attrs["tir_var_upper_bound"] = bounds
        with block.function("main", [*inputs, *weights], attrs=attrs):
            with block.dataflow():
                for tensor in self.plain.ops:
                    self.exprs[tensor] = block.emit(self._call(tensor))
                results = [self._expr(value) for _, value in self.plain.outputs]
                out = block.emit_output(results[0] if len(results) == 1 else relax.Tuple(results))
            block.emit_func_output(out)
        mod = block.get()
        relax.analysis.well_formed(mod)
        assert isinstance(mod, tvm.IRModule)
        return mod, self.weights

    def _name(self, wanted: str) -> str:
        name = re.sub(r"\W+", "_", wanted, flags=re.ASCII).strip("_") or "v"
        name = f"v_{name}" if name[0].isdigit() else name
        unique, count = name, 1
        while unique in self.taken:
            unique, count = f"{name}_{count}", count + 1
        self.taken.add(unique)
        return unique

    def _weights(self) -> list[Any]:
        """Parameters for the constants that are no scalars or short vectors."""
        users: dict[Constant, list[str]] = {}
        for tensor in self.plain.ops:
            assert tensor.op is not None
            for value in tensor.op.inputs:
                if isinstance(value, Constant) and value.array.size > INLINE_ELEMENTS:
                    users.setdefault(value, []).append(tensor.op.node)
        for _, value in self.plain.outputs:
            if isinstance(value, Constant) and value.array.size > INLINE_ELEMENTS:
                users.setdefault(value, [])
        merged: dict[tuple[Any, ...], list[Constant]] = {}
        for constant in users:
            array = constant.array
            key = (constant.source, array.shape, constant.dtype, array.strides, array.ctypes.data)
            if array.size <= 1 << 16:
                key = (constant.source, array.shape, constant.dtype, array.tobytes())
            merged.setdefault(key, []).append(constant)
        params = []
        for same in merged.values():
            first = same[0]
            name = self._name(first.source or "constant")
            var = self.relax.Var(name, self.relax.TensorType(first.array.shape, first.dtype))
            nodes = tuple(dict.fromkeys(node for constant in same for node in users[constant]))
            self.weights[name] = Weight(first.source or name, nodes, np.ascontiguousarray(first.array))
            params.append(var)
            for constant in same:
                self.exprs[constant] = var
        return params

    def _expr(self, value: Tensor | Constant) -> Any:
        if value not in self.exprs:
            assert isinstance(value, Constant), value
            self.exprs[value] = self.relax.const(np.ascontiguousarray(value.array), value.dtype)
        return self.exprs[value]

    def _call(self, tensor: Tensor) -> Any:
        op = tensor.op
        assert op is not None
        args = [self._expr(value) for value in op.inputs]
        attrs = {key: self._attr(key, value) for key, value in op.attrs.items()}
        return CALLS[op.name](self, tensor, args, attrs)

    def _attr(self, key: str, value: Any) -> Any:
        if key in ("shape", "begins", "ends"):
            return [self._prim(n) for n in value]
        return self._prim(value) if key in ("start", "stop") else value

    def _shape(self, shape: Shape) -> Any:
        return self.relax.ShapeExpr([self._prim(n) for n in shape])

    def _prim(self, value: Dim) -> Any:
        """A size as a TIR expression in int64."""
        from tvm import tirx

        if not isinstance(value, sz.Size):
            return tirx.IntImm("int64", int(value))
        total: Any = None
        for monomial, factor in value.terms:
            part: Any = None
            for atom, power in monomial:
                for _ in range(power):
                    one = self._atom(atom)
                    part = one if part is None else part * one
            magnitude = abs(factor) if total is not None else factor
            if part is None:
                part = tirx.IntImm("int64", magnitude)
            elif magnitude != 1:
                part = part * tirx.IntImm("int64", magnitude)
            if total is None:
                total = part
            else:
                total = total - part if factor < 0 else total + part
        return total

    def _atom(self, atom: sz.Atom) -> Any:
        from tvm import tirx

        if isinstance(atom, sz.Symbol):
            if atom.name not in self.symbols:
                self.symbols[atom.name] = tirx.Var(self._name(atom.name), "int64")
            return self.symbols[atom.name]
        assert isinstance(atom, sz.Apply), atom
        args = [self._prim(arg) for arg in atom.args]
        if atom.name == "floordiv":
            return tirx.floordiv(*args)
        if atom.name == "mod":
            return tirx.floormod(*args)
        if atom.name == "min":
            return tirx.min(*args)
        if atom.name == "max":
            return tirx.max(*args)
        zero = tirx.IntImm("int64", 0)
        test = args[0] >= zero if atom.name == "nonneg" else args[0].equal(zero)
        return tirx.Select(test, tirx.IntImm("int64", 1), zero)


Emit = Callable[[_Emitter, Tensor, list[Any], dict[str, Any]], Any]


def _direct(name: str) -> Emit:
    def emit(e: _Emitter, tensor: Tensor, args: list[Any], attrs: dict[str, Any]) -> Any:
        return getattr(e.relax.op, name)(*args)

    return emit


def _nn(name: str) -> Emit:
    def emit(e: _Emitter, tensor: Tensor, args: list[Any], attrs: dict[str, Any]) -> Any:
        return getattr(e.relax.op.nn, name)(*args)

    return emit


def _with_attrs(name: str, *keys: str) -> Emit:
    def emit(e: _Emitter, tensor: Tensor, args: list[Any], attrs: dict[str, Any]) -> Any:
        return getattr(e.relax.op, name)(*args, *(attrs[key] for key in keys))

    return emit


def _conv(e: _Emitter, tensor: Tensor, args: list[Any], attrs: dict[str, Any]) -> Any:
    name = {3: "conv1d", 4: "conv2d"}[len(tensor.shape)]
    return getattr(e.relax.op.nn, name)(
        *args, attrs["strides"], attrs["padding"], attrs["dilation"], attrs["groups"]
    )


def _layer_norm(e: _Emitter, tensor: Tensor, args: list[Any], attrs: dict[str, Any]) -> Any:
    axes = list(range(attrs["axis"] - len(tensor.shape), 0))
    return e.relax.op.nn.layer_norm(*args, axes=axes, epsilon=attrs["epsilon"])


def _pad(e: _Emitter, tensor: Tensor, args: list[Any], attrs: dict[str, Any]) -> Any:
    width = [n for pair in zip(attrs["before"], attrs["after"], strict=True) for n in pair]
    return e.relax.op.nn.pad(*args, width, "constant", float(attrs["value"]))


def _slice(e: _Emitter, tensor: Tensor, args: list[Any], attrs: dict[str, Any]) -> Any:
    # bounds are already clamped
    return e.relax.op.strided_slice(
        *args,
        list(attrs["axes"]),
        attrs["begins"],
        attrs["ends"],
        list(attrs["strides"]),
        assume_inbound=True,
    )


CALLS: dict[str, Emit] = {
    **{name: _direct(name) for name, op in OPS.items() if op.elementwise},
    **{name: _nn(name) for name in ("relu", "gelu", "gelu_tanh", "silu")},
    "cast": lambda e, t, a, k: e.relax.op.astype(a[0], k["dtype"]),
    "reshape": lambda e, t, a, k: e.relax.op.reshape(a[0], e.relax.ShapeExpr(k["shape"])),
    "broadcast_to": lambda e, t, a, k: e.relax.op.broadcast_to(a[0], e.relax.ShapeExpr(k["shape"])),
    "permute_dims": lambda e, t, a, k: e.relax.op.permute_dims(a[0], list(k["axes"])),
    "concat": lambda e, t, a, k: e.relax.op.concat(a, axis=k["axis"]),
    "slice": _slice,
    "flip": _with_attrs("flip", "axis"),
    "take": lambda e, t, a, k: e.relax.op.take(a[0], a[1], axis=k["axis"], mode="wrap"),
    "matmul": lambda e, t, a, k: e.relax.op.matmul(a[0], a[1], out_dtype=k.get("out_dtype")),
    "softmax": lambda e, t, a, k: e.relax.op.nn.softmax(a[0], axis=k["axis"] - len(t.shape)),
    "layer_norm": _layer_norm,
    **{name: _with_attrs(name, "axes", "keepdims") for name in ("sum", "mean", "max", "min", "prod")},
    "argmax": _with_attrs("argmax", "axis", "keepdims"),
    "argmin": _with_attrs("argmin", "axis", "keepdims"),
    "cumsum": _with_attrs("cumsum", "axis"),
    "pad": _pad,
    "conv": _conv,
    "tile": _with_attrs("tile", "repeats"),
    "arange": lambda e, t, a, k: e.relax.op.arange(k["start"], k["stop"], e._prim(1), k["dtype"]),
    "gather_elements": _with_attrs("gather_elements", "axis"),
    "scatter_nd": lambda e, t, a, k: e.relax.op.scatter_nd(*a, "update"),
    "scatter_elements": _with_attrs("scatter_elements", "axis"),
}
