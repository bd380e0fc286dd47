"""Models that are quantised already, against ONNX Runtime, which follows the ONNX definitions here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from espalier import api

pytestmark = pytest.mark.compile

K, N = 37, 21


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
    graph = helper.make_graph(
        nodes,
        "qdq",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["m", K])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["m", N])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.parametrize(("dtype", "zero", "by_row"), [("uint8", 117, True), ("int8", 0, False)])
def test_runs_in_integers(tmp_path: Path, dtype: str, zero: int, by_row: bool) -> None:
    import onnxruntime

    path = saved(tmp_path / "qdq.onnx", dtype, zero, by_row)
    done = api.compile_model(path, target="x86-64-v3", max_shape={"x": (64, K)})
    (layer,) = done.package.metadata.layers
    assert layer.kernel.startswith("u8-dense-pairs")
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
