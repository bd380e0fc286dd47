"""The runtimes that compile or need a file of their own give ONNX Runtime's outputs on a small model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from espalier.bench.compare import bench

pytestmark = pytest.mark.compile

WIDTH = 32


@pytest.fixture
def weights() -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.standard_normal((WIDTH, WIDTH)).astype(np.float32) for _ in range(2)]


@pytest.fixture
def model(tmp_path: Path, weights: list[np.ndarray]) -> Path:
    """y = relu(x W) V, batch and length open."""
    nodes = [
        helper.make_node("MatMul", ["x", "W"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "V"], ["y"]),
    ]
    shape = ["batch", "length", WIDTH]
    graph = helper.make_graph(
        nodes,
        "two",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(array, name) for array, name in zip(weights, "WV", strict=True)],
    )
    path = tmp_path / "two.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.parametrize("peer", ["espalier", "tvm"])
def test_what_is_compiled_gives_the_same(model: Path, peer: str):
    result = bench(
        [model], peers=["onnxruntime", peer], input_shapes={"x": (2, 5, WIDTH)}, repeat=3, budget_s=0.1
    )
    entry = result.of("two", peer)
    assert entry and not entry.why and entry.times
    assert entry.error is not None and entry.error < 1e-5


def test_torch_runs_the_program_beside_the_model(model: Path, weights: list[np.ndarray]):
    torch = pytest.importorskip("torch")

    class Two(torch.nn.Module):
        def forward(self, x):
            first, second = (torch.from_numpy(array) for array in weights)
            return torch.relu(x @ first) @ second

    torch.export.save(torch.export.export(Two(), (torch.ones(2, 5, WIDTH),)), model.with_suffix(".pt2"))
    result = bench(
        [model], peers=["onnxruntime", "torch"], input_shapes={"x": (2, 5, WIDTH)}, repeat=3, budget_s=0.1
    )
    entry = result.of("two", "torch")
    assert entry and not entry.why and entry.error is not None and entry.error < 1e-5
