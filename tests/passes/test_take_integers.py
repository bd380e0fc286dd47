"""Models that are quantised already, against ONNX Runtime, which follows the ONNX definitions here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from espalier import api
from espalier.schedules.x86.int8_linear import Int8Linear

pytestmark = pytest.mark.compile

K, N = 37, 21


def save(
    path: Path, nodes: list[onnx.NodeProto], arrays: dict[str, np.ndarray], dtype: int = TensorProto.FLOAT
) -> Path:
    graph = helper.make_graph(
        nodes,
        "quantised",
        [helper.make_tensor_value_info("x", dtype, ["m", K])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["m", N])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


@pytest.fixture
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Makes those on integers, or those on floats, the fastest of all."""
    milliseconds = 1e-9 if request.param == "u8-" else 1e9
    monkeypatch.setattr(Int8Linear, "milliseconds", lambda *_: milliseconds)
    return request.param


def saved(path: Path, dtype: str, zero: int, by_row: bool) -> Path:
    """y = dequantise(quantise(x)) @ dequantise(w) + b."""
    rng = np.random.default_rng(0)
    bounds = (-128, 128) if dtype == "int8" else (-127, 128)
    arrays = {
        "s": np.float32(0.037),
        "z": np.array(zero, dtype),
        "w": rng.integers(*bounds, (K, N)).astype(np.int8),
        "ws": (rng.uniform(0.001, 0.01, N) if by_row else np.array(0.0041)).astype(np.float32),
        "b": rng.standard_normal(N).astype(np.float32),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "ws"], ["wd"], axis=1),
        helper.make_node("MatMul", ["d", "wd"], ["p"]),
        helper.make_node("Add", ["p", "b"], ["y"]),
    ]
    return save(path, nodes, arrays)


@pytest.mark.parametrize(("dtype", "zero", "by_row"), [("uint8", 117, True), ("int8", 0, False)])
@pytest.mark.parametrize("kernels", ["u8-", "f32-"], indirect=True)
def test_runs_in_integers(tmp_path: Path, dtype: str, zero: int, by_row: bool, kernels: str) -> None:
    import onnxruntime

    path = saved(tmp_path / "qdq.onnx", dtype, zero, by_row)
    done = api.compile_model(path, target="x86-64-v3", max_shape={"x": (64, K)})
    (layer,) = done.package.metadata.layers
    assert layer.kernel.startswith("u8-dense-pairs" if kernels == "u8-" else kernels)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options)
    for count in (1, 19):
        x = (2 * np.random.default_rng(count).standard_normal((count, K))).astype(np.float32)
        x[0, :2] = [9e9, -9e9]  # clipped
        x[0, 2] = 0.037 * 2.5  # a tie
        np.testing.assert_allclose(
            done.package.run({"x": x})["y"], session.run(None, {"x": x})[0], rtol=1e-4, atol=1e-5
        )


def test_a_float_model_stays_float(tmp_path: Path) -> None:
    path = saved(tmp_path / "qdq.onnx", "uint8", 3, True)
    model = onnx.load(path)
    scale = next(tensor for tensor in model.graph.initializer if tensor.name == "s")
    model.graph.node[1].input[1] = "other"
    other = numpy_helper.from_array(2 * numpy_helper.to_array(scale), "other")
    model.graph.initializer.append(other)
    onnx.save(model, path)
    (layer,) = api.compile_model(path, target="x86-64-v3", max_shape={"x": (64, K)}).package.metadata.layers
    assert layer.kernel.startswith("f32-")


def dynamic(path: Path, zeros: bool, fused: bool) -> Path:
    """y = relu(x W + b), x and W in integers, x rounded by its range."""
    rng = np.random.default_rng(0)
    matrix = rng.integers(-64, 64, (K, N))
    arrays = {
        "w": np.where(rng.random((K, N)) < 0.2, 5 if zeros else 0, matrix).astype(np.int8),
        "ws": rng.uniform(0.001, 0.01, N).astype(np.float32),
        "wz": np.full(N, 5 if zeros else 0, np.int8),
        "b": rng.standard_normal(N).astype(np.float32),
    }
    product = (
        [helper.make_node("DynamicQuantizeMatMul", ["x", "w", "ws", "wz"], ["p"], domain="com.microsoft")]
        if fused
        else [
            helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
            helper.make_node("MatMulInteger", ["q", "w", "z", "wz"], ["i"]),
            helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["s", "ws"], ["m"]),
            helper.make_node("Mul", ["f", "m"], ["p"]),
        ]
    )
    nodes = [
        *product,
        helper.make_node("Add", ["p", "b"], ["a"]),
        helper.make_node("Relu", ["a"], ["y"]),
    ]
    return save(path, nodes, arrays)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("kernels", ["u8-", "f32-"], indirect=True)
def test_dynamic(tmp_path: Path, zeros: bool, fused: bool, kernels: str) -> None:
    """The range comes from all tokens, also where they do not fill a tile."""
    import onnxruntime

    path = dynamic(tmp_path / "dynamic.onnx", zeros, fused)
    done = api.compile_model(path, target="x86-64-v3", max_shape={"x": (64, K)})
    (layer,) = done.package.metadata.layers
    assert layer.name == "w"
    assert layer.structure == "unstructured"
    assert layer.kernel.startswith(kernels)
    session = onnxruntime.InferenceSession(path)
    for count in (1, 19):
        x = (2 * np.random.default_rng(count).standard_normal((count, K))).astype(np.float32)
        want = session.run(None, {"x": x})[0]
        np.testing.assert_allclose(done.package.run({"x": x})["y"], want, rtol=1e-4, atol=1e-4)
    x = np.zeros((3, K), np.float32)
    np.testing.assert_allclose(done.package.run({"x": x})["y"], session.run(None, {"x": x})[0], atol=1e-6)


@pytest.mark.parametrize("scale", ["one number", "a feature"])
def test_products_of_integer_inputs(tmp_path: Path, scale: str) -> None:
    """MatMulInteger without a zero point, on integers that come from outside."""
    import onnxruntime

    rng = np.random.default_rng(0)
    arrays = {
        "w": rng.integers(-64, 64, (K, N)).astype(np.int8),
        "s": rng.uniform(0.001, 0.01, N if scale == "a feature" else ()).astype(np.float32),
    }
    nodes = [
        helper.make_node("MatMulInteger", ["x", "w"], ["i"]),
        helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "s"], ["y"]),
    ]
    path = save(tmp_path / "integers.onnx", nodes, arrays, TensorProto.UINT8)
    done = api.compile_model(path, target="x86-64-v3", max_shape={"x": (64, K)})
    assert [layer.kernel[:3] for layer in done.package.metadata.layers] == ["f32"]
    x = rng.integers(0, 256, (19, K)).astype(np.uint8)
    want = onnxruntime.InferenceSession(path).run(None, {"x": x})[0]
    np.testing.assert_allclose(done.package.run({"x": x})["y"], want, rtol=1e-5, atol=1e-4)
