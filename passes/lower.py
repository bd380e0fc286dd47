"""Lower: every operator of ours becomes a call of its kernel, with the packed constants as arguments.

Layers with the same work and kernel share one function.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import partial

import tvm
from tvm import relax, tirx

from espalier.passes import ops
from espalier.passes.graph import Emit, Scope, dims, operator, product, rewrite
from espalier.passes.lower_integers import Integers
from espalier.passes.state import State
from espalier.schedules import Quantization
from espalier.schedules.x86.attention import AttentionWork, Mask, attention
from espalier.schedules.x86.cached_attention import CachedAttentionWork, cached_attention
from espalier.schedules.x86.norm import NormWork, layer_norm, layer_norm_rows
from espalier.schedules.x86.tiles import from_tiles, to_tiles


def run(state: State) -> State:
    """Rewrite `main` and add the kernels to the module."""
    kernels = _Kernels(state)
    rules: dict[str, Callable[[relax.Call, Emit], relax.Expr]] = {
        "espalier.linear": kernels.linear,
        "espalier.layer_norm": kernels.layer_norm,
        "espalier.attention": kernels.attention,
        "espalier.cached_attention": kernels.cached_attention,
        "espalier.to_tiles": kernels.to_tiles,
        "espalier.from_tiles": kernels.from_tiles,
    }

    def visit(value: relax.Expr, _scope: Scope, emit: Emit) -> relax.Expr | None:
        rule = rules.get(operator(value) or "")
        return rule(value, emit) if rule is not None else None

    return state.with_mod(rewrite(state.mod, visit, builder=kernels.builder))


class _Kernels:
    """The kernels called so far, one function for each distinct work."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.cpu = state.cpu
        self.builder = relax.BlockBuilder()
        self._functions: dict[Hashable, tvm.ir.GlobalVar] = {}
        self._constants: dict[tuple[str, str, Quantization | None], list[relax.Expr]] = {}
        self._integers = Integers()

    def _function(self, key: Hashable, name: str, make: Callable[[str], tirx.PrimFunc]) -> tvm.ir.GlobalVar:
        if key not in self._functions:
            unique = f"{name}_{len(self._functions)}"
            self._functions[key] = self.builder.add_func(
                make(unique).with_attr("global_symbol", unique), unique
            )
        return self._functions[key]

    def linear(self, call: relax.Call, emit: Emit) -> relax.Expr:
        layer = self.state.layers[call.attrs["layer"]]
        x, weight, bias, residual = ops.linear_args(call)
        rows = layer.rows
        kernel = layer.kernel.for_tokens(rows) if isinstance(rows, int) and rows else layer.kernel
        integers = layer.quantization
        key = (weight.name, kernel.name, integers)
        if key not in self._constants:
            _, packed = self.state.packed[weight.name]
            arrays = kernel.pack(packed) if integers is None else self._integers.constants(layer, packed)
            self._constants[key] = [relax.const(array) for array in arrays]
        shape = dims(call)
        if call.attrs["layout"] == "tokens":
            tokens = product(shape[:-1])
            x = _reshaped(x, [tokens, dims(x)[-1]], emit)
            residual = residual if residual is None else _reshaped(residual, [tokens, shape[-1]], emit)
            out = [tokens, shape[-1]]
        else:
            out = shape
        function = self._function(("linear", kernel.code), kernel.name.replace("-", "_"), kernel.func)
        inputs = [x] if integers is None else self._integers.of(x, layer, self._function, emit)
        args = [*inputs, *self._constants[key], *(arg for arg in (bias, residual) if arg is not None)]
        if kernel.counts_tokens:
            args.extend(call.args[-1].values)
        result = _call(function, args, out)
        return result if len(out) == len(shape) else relax.op.reshape(emit(result), shape)

    def layer_norm(self, call: relax.Call, emit: Emit) -> relax.Expr | None:
        shape = dims(call)
        if call.attrs["layout"] == "tiles":
            work = NormWork(shape[1], call.attrs["epsilon"])
            function = self._function(work, f"layer_norm_{shape[1]}", partial(layer_norm, work, self.cpu))
            return _call(function, list(call.args), shape)
        width = shape[-1]
        if not isinstance(width, int):
            return None
        work = NormWork(width, call.attrs["epsilon"])
        function = self._function(
            ("rows", work), f"layer_norm_rows_{width}", partial(layer_norm_rows, work, self.cpu)
        )
        rows = [product(shape[:-1]), width]
        result = _call(function, [_reshaped(call.args[0], rows, emit), *call.args[1:]], rows)
        return result if len(shape) == 2 else relax.op.reshape(emit(result), shape)

    def attention(self, call: relax.Call, _emit: Emit) -> relax.Expr | None:
        if call.attrs["layout"] != "tiles":
            return None
        query, key, value, *rest = call.args
        heads = int(call.attrs["heads"])
        mask = rest[0] if call.attrs["mask"] else None
        work = AttentionWork(
            heads=heads,
            head_dim=dims(query)[1] // heads,
            value_dim=dims(value)[1] // heads,
            scale=float(call.attrs["scale"]),
            mask=None if mask is None else _mask(mask),
            nan_to_zero=bool(call.attrs["nan_to_zero"]),
        )
        function = self._function(
            work, f"attention_{heads}x{work.head_dim}", partial(attention, work, self.cpu)
        )
        args = [query, key, value, *([] if mask is None else [mask]), *call.args[-1].values]
        return _call(function, args, dims(call))

    def cached_attention(self, call: relax.Call, _emit: Emit) -> relax.Expr:
        query, _, values, *_ = parts = call.args[:-1]
        _, _, heads, _, width = dims(query)
        masked = bool(call.attrs["mask"])
        work = CachedAttentionWork(
            heads=heads,
            head_dim=width,
            value_dim=dims(values)[-1],
            scale=float(call.attrs["scale"]),
            mask=_mask(parts[-1]) if masked else None,
            nan_to_zero=bool(call.attrs["nan_to_zero"]),
        )
        function = self._function(
            work, f"cached_attention_{heads}x{width}", partial(cached_attention, work, self.cpu)
        )
        return _call(function, [*parts, *call.args[-1].values], dims(call))

    def to_tiles(self, call: relax.Call, emit: Emit) -> relax.Expr:
        x = call.args[0]
        width = dims(x)[-1]
        rows = _reshaped(x, [product(dims(x)[:-1]), width], emit)
        function = self._function(
            ("to_tiles", width), f"to_tiles_{width}", partial(to_tiles, width, self.cpu)
        )
        return _call(function, [rows], dims(call))

    def from_tiles(self, call: relax.Call, emit: Emit) -> relax.Expr:
        shape = dims(call)
        rows = [product(shape[:-1]), shape[-1]]
        width = shape[-1]
        function = self._function(
            ("from_tiles", width), f"from_tiles_{width}", partial(from_tiles, width, self.cpu)
        )
        result = _call(function, [call.args[0]], rows)
        return result if len(shape) == 2 else relax.op.reshape(emit(result), shape)


def _mask(mask: relax.Expr) -> Mask:
    batch, heads, queries, _ = (dim != 1 for dim in map(_extent, dims(mask)))
    return Mask("keep" if mask.ty.dtype == "bool" else "add", batch, heads, queries)


def _extent(dim: tvm.ir.Expr | int) -> int | None:
    return dim if isinstance(dim, int) else None


def _reshaped(x: relax.Expr, shape: Sequence, emit: Emit) -> relax.Expr:
    return x if len(dims(x)) == len(shape) else emit(relax.op.reshape(x, list(shape)))


def _call(function: tvm.ir.GlobalVar, args: list[relax.Expr], shape: Sequence) -> relax.Call:
    return relax.call_tir(function, args, out_ty=relax.TensorType(list(shape), "float32"))
