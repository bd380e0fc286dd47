"""Quantised operators against ONNX Runtime without optimisations, which follows the ONNX definitions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from espalier.errors import ModelError
from espalier.passes.frontend.convert.graph import convert
from espalier.passes.frontend.values import Plain

pytestmark = pytest.mark.unit

node = helper.make_node
rng = np.random.default_rng(0)
Make = Callable[..., onnx.ModelProto]
Agree = Callable[..., Plain]
MS = {"domain": "com.microsoft"}


def f32(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def ints(dtype: str, *shape: int) -> np.ndarray:
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max + 1, shape, dtype=dtype)


def narrow(*shape: int) -> np.ndarray:
    """Weights of 7 bits: with 8, ONNX Runtime saturates inside its sums on CPUs without VNNI."""
    return rng.integers(-64, 64, shape).astype(np.int8)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint16"])
@pytest.mark.parametrize("axis", [None, 1])
def test_quantise_and_back(dtype: str, axis: int | None, make: Make, agree: Agree) -> None:
    shape = () if axis is None else (5,)
    weights = {"s": np.full(shape, 0.05, np.float32), "z": np.full(shape, 3, dtype)}
    attrs = {} if axis is None else {"axis": axis}
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"], **attrs),
        node("DequantizeLinear", ["q", "s", "z"], ["y"], **attrs),
    ]
    outputs = {"q": dtype, "y": "float32"}
    x = f32(3, 5) * 9
    x[0, :3] = [0.025, 0.075, -0.125]  # ties
    agree(make(nodes, {"x": ("float32", ["b", 5])}, weights, outputs, opset=21), {"x": x})


@pytest.mark.parametrize("code", [TensorProto.INT4, TensorProto.UINT4, TensorProto.INT8])
@pytest.mark.parametrize("blocked", [False, True])
def test_weight_of_few_bits(code: int, blocked: bool, make: Make, agree: Agree) -> None:
    low, high = {TensorProto.INT4: (-8, 8), TensorProto.UINT4: (0, 16), TensorProto.INT8: (-128, 128)}[code]
    shape = (4, 6) if blocked else (6,)
    attrs = {"axis": 0, "block_size": 2} if blocked else {"axis": 1}
    weights = {"s": np.abs(f32(*shape)) + 0.1}
    nodes = [node("DequantizeLinear", ["w", "s", "z"], ["d"], **attrs), node("MatMul", ["x", "d"], ["y"])]
    model = make(nodes, {"x": ("float32", ["b", 8])}, weights, opset=21)
    for name, size in (("w", (8, 6)), ("z", shape)):
        numbers = rng.integers(low, high, size).reshape(-1).tolist()
        model.graph.initializer.append(helper.make_tensor(name, code, size, numbers))
    plain = agree(model, {"x": f32(3, 8)}, atol=1e-4)
    assert [t.op.name for t in plain.ops if t.op] == ["matmul"]


def test_dynamic_quantisation(make: Make, agree: Agree) -> None:
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        node("MatMulInteger", ["q", "w", "z", "wz"], ["i"]),
        node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        node("Mul", ["f", "s"], ["y"]),
    ]
    outputs = {"y": "float32", "q": "uint8", "s": "float32", "z": "uint8"}
    weights = {"w": narrow(8, 6), "wz": narrow(6)}
    model = make(nodes, {"x": ("float32", ["b", 8])}, weights, outputs)
    agree(
        model,
        {"x": f32(3, 8)},
        {"x": np.abs(f32(2, 8))},
        {"x": -np.abs(f32(2, 8))},
        {"x": np.zeros((1, 8), np.float32)},
    )


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_integer_matmul(dtype: str, make: Make, agree: Agree) -> None:
    weights = {"w": ints(dtype, 8, 6), "az": ints(dtype), "bz": ints(dtype)}
    model = make(
        [node("MatMulInteger", ["x", "w", "az", "bz"], ["y"])],
        {"x": (dtype, ["b", 8])},
        weights,
        {"y": "int32"},
    )
    agree(model, {"x": ints(dtype, 3, 8)})


def test_qlinear_matmul(make: Make, agree: Agree) -> None:
    weights = {
        "as": np.float32(0.1), "az": np.uint8(7), "w": ints("uint8", 8, 6), "bs": np.float32(0.2),
        "bz": np.uint8(9),
        "ys": np.float32(30), "yz": np.uint8(100),
    }  # fmt: skip
    names = ["x", "as", "az", "w", "bs", "bz", "ys", "yz"]
    outputs = {"y": "uint8"}
    model = make([node("QLinearMatMul", names, ["y"])], {"x": ("uint8", ["b", 8])}, weights, outputs)
    agree(model, {"x": ints("uint8", 3, 8)})


def test_qlinear_conv(make: Make, agree: Agree) -> None:
    weights = {
        "as": np.float32(0.1), "az": np.uint8(7), "w": narrow(5, 4, 3), "bs": np.full(5, 0.02, np.float32),
        "bz": np.zeros(5, np.int8), "ys": np.float32(2), "yz": np.uint8(100),
        "c": ints("int16", 5).astype(np.int32),
    }  # fmt: skip
    names = ["x", "as", "az", "w", "bs", "bz", "ys", "yz", "c"]
    outputs = {"y": "uint8"}
    model = make([node("QLinearConv", names, ["y"])], {"x": ("uint8", ["b", 4, 9])}, weights, outputs)
    agree(model, {"x": ints("uint8", 2, 4, 9)}, atol=1)


QLINEAR = {
    "QLinearAdd": ["x", "as", "az", "w", "bs", "bz", "ys", "yz"],
    "QLinearMul": ["x", "as", "az", "w", "bs", "bz", "ys", "yz"],
    "QLinearSigmoid": ["x", "as", "az", "ps", "yz"],
    "QLinearLeakyRelu": ["x", "as", "az", "ys", "yz"],
    "QLinearConcat": ["ys", "yz", "x", "as", "az", "w", "bs", "bz"],
}


@pytest.mark.parametrize("op", QLINEAR)
def test_qlinear_elementwise(op: str, make: Make, agree: Agree) -> None:
    weights = {
        "as": np.float32(0.1), "az": np.uint8(7), "w": ints("uint8", 1 if op != "QLinearConcat" else 3, 6),
        "bs": np.float32(0.2), "bz": np.uint8(9), "ys": np.float32(0.7), "yz": np.uint8(30),
        "ps": np.float32(1 / 256),
    }  # fmt: skip
    attrs = {"axis": 1} if op == "QLinearConcat" else {"alpha": 0.1} if op == "QLinearLeakyRelu" else {}
    model = make(
        [node(op, QLINEAR[op], ["y"], **attrs, **MS)], {"x": ("uint8", [3, 6])}, weights, {"y": "uint8"}
    )
    agree(model, {"x": ints("uint8", 3, 6)}, atol=1)  # ONNX Runtime rounds its own way at ties


def test_fused_dynamic_quantisation(make: Make, agree: Agree) -> None:
    weights = {"w": narrow(8, 6), "s": np.abs(f32(6)), "z": narrow(6), "c": f32(6)}
    fused = node("DynamicQuantizeMatMul", ["x", "w", "s", "z", "c"], ["y"], **MS)
    agree(make([fused], {"x": ("float32", ["b", 8])}, weights), {"x": f32(3, 8)}, rtol=1e-4, atol=1e-4)
    weights |= {"as": np.float32(0.1), "az": np.uint8(3)}
    fused = node("MatMulIntegerToFloat", ["x", "w", "as", "s", "az", "z", "c"], ["y"], **MS)
    agree(
        make([fused], {"x": ("uint8", ["b", 8])}, weights), {"x": ints("uint8", 3, 8)}, rtol=1e-4, atol=1e-3
    )


def test_qgemm(make: Make, agree: Agree) -> None:
    weights = {
        "as": np.float32(0.1), "az": np.uint8(7), "w": narrow(6, 8), "bs": np.float32(0.2), "bz": np.int8(0),
        "c": ints("int16", 6).astype(np.int32), "ys": np.float32(9), "yz": np.uint8(100),
    }  # fmt: skip
    names = ["x", "as", "az", "w", "bs", "bz", "c", "ys", "yz"]
    model = make(
        [node("QGemm", names, ["y"], transB=1, **MS)], {"x": ("uint8", ["b", 8])}, weights, {"y": "uint8"}
    )
    agree(model, {"x": ints("uint8", 3, 8)}, atol=1)
    model = make([node("QGemm", names[:7], ["y"], transB=1, **MS)], {"x": ("uint8", ["b", 8])}, weights)
    agree(model, {"x": ints("uint8", 3, 8)}, rtol=1e-4)


def test_quantisation_to_int32_is_refused(make: Make) -> None:
    weights = {"s": np.float32(0.1), "z": np.int32(0)}
    model = make(
        [node("QuantizeLinear", ["x", "s", "z"], ["y"], name="culprit")], {"x": ("float32", [2])}, weights
    )
    with pytest.raises(ModelError, match="culprit: quantisation to int32"):
        convert(model)
