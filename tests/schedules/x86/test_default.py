"""Leftovers: scheduled as such, and equal to numpy in float64 at lengths that divide nothing."""

from __future__ import annotations

from collections.abc import Callable
from math import erf

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.relax import op

from espalier.schedules.x86.default import schedule_leftovers
from espalier.schedules.x86.functions import legalizations

pytestmark = pytest.mark.compile

B, S = tvm.tirx.Var("b", "int64"), tvm.tirx.Var("s", "int64")
SIZES = [(1, 1), (3, 7), (2, 33), (2, 128)]


def _softmax(x: np.ndarray, axis: int) -> np.ndarray:
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def _layer_norm(x: np.ndarray) -> np.ndarray:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.vectorize(erf)(x / np.sqrt(2)))


# name: (shapes of the float32 inputs, in Relax, in numpy)
CASES: dict[str, tuple[list[list], Callable, Callable]] = {
    "chain": ([[B, S, 40], [40]], lambda x, g: op.add(op.nn.gelu(x), g), lambda x, g: _gelu(x) + g),
    "functions": (
        [[B, S, 16]],
        lambda x: op.sigmoid(op.tanh(op.erf(op.exp(x)))),
        lambda x: _sigmoid(np.tanh(np.vectorize(erf)(np.exp(x)))),
    ),
    "silu": ([[B, S, 16]], op.nn.silu, lambda x: x * _sigmoid(x)),
    "softmax": ([[B, 2, S, S]], op.nn.softmax, lambda x: _softmax(x, -1)),
    "softmax_tokens": ([[B, S, 12]], lambda x: op.nn.softmax(x, axis=1), lambda x: _softmax(x, 1)),
    "norm": (
        [[B, S, 48], [48], [48]],
        lambda x, g, c: op.nn.layer_norm(x, g, c, axes=[-1]),
        lambda x, g, c: _layer_norm(x) * g + c,
    ),
    "norm_odd": (
        [[B, S, 50], [50], [50]],
        lambda x, g, c: op.nn.layer_norm(x, g, c, axes=[-1]),
        lambda x, g, c: _layer_norm(x) * g + c,
    ),
    "product": (
        [[B, 2, S, 32], [B, 2, 32, S], [B, 1, 1, S]],
        lambda x, y, m: op.add(op.multiply(op.matmul(x, y), relax.const(0.5, "float32")), m),
        lambda x, y, m: 0.5 * (x @ y) + m,
    ),
    "product_transposed": (
        [[B, S, 20], [B, S, 20]],
        lambda x, y: op.matmul(x, op.permute_dims(y, [0, 2, 1])),
        lambda x, y: x @ y.transpose(0, 2, 1),
    ),
    "product_weight": ([[B, S, 7], [7, 5]], op.matmul, lambda x, y: x @ y),
    "product_row": ([[1, 64], [64, 40]], op.matmul, lambda x, y: x @ y),
    "mean_tokens": ([[B, S, 48]], lambda x: op.mean(x, axis=1), lambda x: x.mean(1)),
    "mean_features": ([[B, S, 48]], lambda x: op.mean(x, axis=-1), lambda x: x.mean(-1)),
    "sum_odd": ([[B, S, 50]], lambda x: op.sum(x, axis=-1), lambda x: x.sum(-1)),
    "sum_all": ([[B, S, 8]], op.sum, np.sum),
    "norm_l2": (
        [[B, 64]],
        lambda x: op.divide(x, op.sqrt(op.sum(op.multiply(x, x), axis=1, keepdims=True))),
        lambda x: x / np.sqrt((x * x).sum(1, keepdims=True)),
    ),
    "heads": (
        [[B, S, 64]],
        lambda x: op.permute_dims(op.reshape(x, [B, S, 4, 16]), [0, 2, 1, 3]),
        lambda x: x.reshape(*x.shape[:2], 4, 16).transpose(0, 2, 1, 3),
    ),
    "concat": (
        [[B, S, 9], [B, S, 4]],
        lambda x, y: op.concat([x, y], axis=2),
        lambda x, y: np.concatenate([x, y], 2),
    ),
    "running": ([[B, S]], lambda x: op.cumsum(x, axis=1), lambda x: x.cumsum(1)),
}  # fmt: skip


def _module() -> tvm.IRModule:
    builder = relax.BlockBuilder()
    for name, (shapes, function, _) in CASES.items():
        inputs = [relax.Var(f"x{i}", relax.TensorType(shape, "float32")) for i, shape in enumerate(shapes)]
        with builder.function(name, inputs):
            with builder.dataflow():
                result = builder.emit_output(builder.normalize(function(*inputs)))
            builder.emit_func_output(result)
    steps = [
        relax.transform.LegalizeOps(legalizations()),
        relax.transform.AnnotateTIROpPattern(),
        relax.transform.FuseOps(),
        relax.transform.FuseTIR(),
    ]
    return tvm.transform.Sequential(steps)(builder.get())


@pytest.fixture(scope="module")
def leftovers() -> tvm.IRModule:
    return _module()


@pytest.fixture(scope="module")
def machine(leftovers: tvm.IRModule) -> relax.VirtualMachine:
    target = tvm.target.Target({"kind": "llvm", "mcpu": "x86-64-v3"})
    return relax.VirtualMachine(relax.build(schedule_leftovers(leftovers), target), tvm.cpu())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", CASES)
def test_equals_float64(machine: relax.VirtualMachine, name: str, size: tuple[int, int]) -> None:
    shapes, _, exact = CASES[name]
    rng = np.random.default_rng(3)
    known = {"b": size[0], "s": size[1]}
    inputs = [
        rng.standard_normal([known[dim.name] if dim in (B, S) else dim for dim in shape]).astype(np.float32)
        for shape in shapes
    ]
    result = machine[name](*(tvm.runtime.tensor(x) for x in inputs)).numpy()
    expected = exact(*(x.astype(np.float64) for x in inputs))
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)


def test_every_function_gets_a_schedule(leftovers: tvm.IRModule, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG", logger="espalier"):
        scheduled = schedule_leftovers(leftovers)
    functions = [f for f in scheduled.functions.values() if isinstance(f, tvm.tirx.PrimFunc)]
    assert len(functions) >= len(CASES)
    assert all(f.attrs["tirx.is_scheduled"] for f in functions)
    assert "no schedule" not in caplog.text


def test_a_scheduled_function_is_left_alone(leftovers: tvm.IRModule) -> None:
    once = schedule_leftovers(leftovers)
    tvm.ir.assert_structural_equal(schedule_leftovers(once), once)


def test_a_function_that_no_rule_fits_still_runs() -> None:
    from tvm.script import from_source
    from tvm.script import tirx as T

    source = """
@T.prim_func(s_tir=True)
def odd(X: T.Buffer((4,), "float32"), Y: T.Buffer((4,), "float32")):
    T.func_attr({"global_symbol": "odd"})
    for i in T.serial(4):
        Y[i] = X[3 - i]
"""
    mod = schedule_leftovers(tvm.IRModule({"odd": from_source(source, extra_vars={"T": T})}))
    x, y = np.arange(4, dtype=np.float32), tvm.runtime.tensor(np.zeros(4, np.float32))
    tvm.compile(mod, target="llvm")["odd"](tvm.runtime.tensor(x), y)
    np.testing.assert_array_equal(y.numpy(), x[::-1])


def test_other_types_take_the_usual_way() -> None:
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType([4, 8], "float64"))
    with builder.function("main", [x]):
        with builder.dataflow():
            result = builder.emit_output(builder.normalize(op.exp(x)))
        builder.emit_func_output(result)
    mod = schedule_leftovers(relax.transform.LegalizeOps(legalizations())(builder.get()))
    machine = relax.VirtualMachine(relax.build(mod, "llvm"), tvm.cpu())
    value = np.linspace(-3, 3, 32).reshape(4, 8)
    np.testing.assert_allclose(machine["main"](tvm.runtime.tensor(value)).numpy(), np.exp(value), rtol=1e-14)
