"""Small Relax modules in the forms that exporters write, and a plain way to run any module."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import tvm
from tvm import relax, tirx

from espalier.passes.graph import bindings, operator

Build = Callable[..., relax.Expr]


def constant(value: float) -> relax.Expr:
    return relax.const(value, "float32")


def module(
    build: Build, inputs: dict[str, list], weights: dict[str, np.ndarray] | None = None
) -> tvm.IRModule:
    """A module whose `main(inputs..., weights...)` is what `build(emit, *params)` returns.

    Dimensions of inputs given as strings are symbolic; equal names are equal symbols.
    """
    weights = weights or {}
    symbols: dict[str, tirx.Var] = {}
    params = []
    for name, shape in inputs.items():
        known = [
            symbols.setdefault(dim, tirx.Var(dim, "int64")) if isinstance(dim, str) else dim for dim in shape
        ]
        params.append(relax.Var(name, relax.TensorType(known, "float32")))
    for name, array in weights.items():
        params.append(relax.Var(name, relax.TensorType(array.shape, str(array.dtype))))
    builder = relax.BlockBuilder()
    with builder.function("main", params, attrs={"num_input": len(inputs)}):
        with builder.dataflow():
            result = builder.emit_output(builder.emit(build(builder.emit, *params)))
        builder.emit_func_output(result)
    return builder.get()


def run(mod: tvm.IRModule, *args: np.ndarray) -> np.ndarray:
    """Compile with TVM's default pipeline and run."""
    executable = tvm.compile(mod, target="llvm")
    machine = relax.VirtualMachine(executable, tvm.cpu())
    return machine["main"](*[tvm.runtime.tensor(arg) for arg in args]).numpy()


def operators(mod: tvm.IRModule) -> Counter[str]:
    """How often `main` calls each Relax operator."""
    return Counter(name for _, value in bindings(mod) if (name := operator(value)) is not None)


def gelu_legacy(emit: Callable, x: relax.Expr) -> relax.Expr:
    erf = emit(relax.op.erf(emit(relax.op.divide(x, constant(math.sqrt(2))))))
    gate = emit(relax.op.add(erf, constant(1.0)))
    return relax.op.multiply(emit(relax.op.multiply(x, gate)), constant(0.5))


def gelu_dynamo(emit: Callable, x: relax.Expr) -> relax.Expr:
    erf = emit(relax.op.erf(emit(relax.op.multiply(x, constant(math.sqrt(0.5))))))
    gate = emit(relax.op.multiply(constant(0.5), emit(relax.op.add(erf, constant(1.0)))))
    return relax.op.multiply(x, gate)


def gelu_tanh(emit: Callable, x: relax.Expr) -> relax.Expr:
    cube = emit(relax.op.power(x, constant(3.0)))
    inner = emit(relax.op.add(x, emit(relax.op.multiply(constant(0.044715), cube))))
    tanh = emit(relax.op.tanh(emit(relax.op.multiply(inner, constant(math.sqrt(2 / math.pi))))))
    half = emit(relax.op.multiply(constant(0.5), x))
    return relax.op.multiply(half, emit(relax.op.add(constant(1.0), tanh)))


def gelu_tanh_products(emit: Callable, x: relax.Expr) -> relax.Expr:
    square = emit(relax.op.multiply(x, x))
    cube = emit(relax.op.multiply(emit(relax.op.multiply(square, x)), constant(0.044715)))
    inner = emit(relax.op.multiply(constant(math.sqrt(2 / math.pi)), emit(relax.op.add(cube, x))))
    gate = emit(relax.op.add(emit(relax.op.tanh(inner)), constant(1.0)))
    return relax.op.multiply(emit(relax.op.multiply(x, constant(0.5))), gate)


def silu(emit: Callable, x: relax.Expr) -> relax.Expr:
    return relax.op.multiply(emit(relax.op.sigmoid(x)), x)


def layer_norm_chain(
    emit: Callable, x: relax.Expr, gain: relax.Expr, bias: relax.Expr, square: str
) -> relax.Expr:
    centred = emit(relax.op.subtract(x, emit(relax.op.mean(x, axis=[-1], keepdims=True))))
    squared = (
        relax.op.power(centred, constant(2.0)) if square == "power" else relax.op.multiply(centred, centred)
    )
    variance = emit(relax.op.mean(emit(squared), axis=[-1], keepdims=True))
    root = emit(relax.op.sqrt(emit(relax.op.add(variance, constant(1e-12)))))
    scaled = emit(relax.op.multiply(emit(relax.op.divide(centred, root)), gain))
    return relax.op.add(scaled, bias)


def split_heads(emit: Callable, x: relax.Expr, heads: int, axes: list[int]) -> relax.Expr:
    batch, length, width = x.ty.shape.values
    split = emit(relax.op.reshape(x, [batch, length, heads, int(width) // heads]))
    return emit(relax.op.permute_dims(split, axes))


def attention(
    emit: Callable,
    query: relax.Expr,
    key: relax.Expr,
    value: relax.Expr,
    mask: relax.Expr | None = None,
    *,
    heads: int,
    style: str,
) -> relax.Expr:
    """Self-attention as an exporter writes it, in one of several styles."""
    batch, length, width = query.ty.shape.values
    head = int(width) // heads
    q = split_heads(emit, query, heads, [0, 2, 1, 3])
    if style == "merged-meanwhile":
        k = split_heads(emit, key, heads, [0, 2, 1, 3])
        k = emit(relax.op.reshape(k, [batch * heads, length, head]))
        k = emit(relax.op.permute_dims(k, [0, 2, 1]))
        k = emit(relax.op.reshape(k, [batch, heads, head, length]))
    elif style == "transposed-twice":
        k = emit(relax.op.permute_dims(split_heads(emit, key, heads, [0, 2, 1, 3]), [0, 1, 3, 2]))
    else:
        k = split_heads(emit, key, heads, [0, 2, 3, 1])
    v = split_heads(emit, value, heads, [0, 2, 1, 3])
    if style in ("scaled-both", "guarded"):
        root = constant(head**-0.25)
        q, k = emit(relax.op.multiply(q, root)), emit(relax.op.multiply(k, root))
    scores = emit(relax.op.matmul(q, k))
    if style not in ("scaled-both", "guarded"):
        scores = emit(relax.op.divide(scores, constant(math.sqrt(head))))
    if mask is not None:
        scores = emit(relax.op.add(scores, mask))
    weights = emit(relax.op.nn.softmax(scores, axis=-1))
    if style == "guarded":
        weights = emit(relax.op.where(emit(relax.op.isnan(weights)), constant(0.0), weights))
    mixed = emit(relax.op.permute_dims(emit(relax.op.matmul(weights, v)), [0, 2, 1, 3]))
    return relax.op.reshape(mixed, [batch, length, width])
