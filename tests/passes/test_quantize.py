"""Rounding to integers: from a float model to a package, and what it costs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from espalier import api
from espalier.errors import DataError, UsageError

pytestmark = pytest.mark.compile

K, H, N = 120, 200, 60


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("model") / "two.onnx", K, H, N)


def saved(path: Path, k: int, h: int, n: int) -> Path:
    """y = relu(x W1 + b) W2; feature 3 of x is large."""
    rng = np.random.default_rng(0)
    arrays = {"w1": (k, h), "b": (h,), "w2": (h, n)}
    weights = [
        numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
        for name, shape in arrays.items()
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"]),
        helper.make_node("Add", ["a", "b"], ["c"]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("MatMul", ["d", "w2"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["m", k])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["m", n])]
    graph = helper.make_graph(nodes, "two", inputs, outputs, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def tokens(count: int, seed: int = 1) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((count, K)).astype(np.float32)
    x[:, 3] *= 30
    return x


def exact(model: Path, x: np.ndarray) -> np.ndarray:
    import onnxruntime

    return onnxruntime.InferenceSession(model).run(None, {"x": x})[0]


def relative(got: np.ndarray, want: np.ndarray) -> float:
    return float(np.sqrt(np.square(got - want).mean() / np.square(want).mean()))


@pytest.mark.parametrize("calibrated", [False, True])
def test_error_is_what_the_package_says(model: Path, calibrated: bool) -> None:
    samples = {"x": tokens(16)} if calibrated else None
    done = api.compile_model(
        model,
        dtype="int8",
        target="x86-64-v3",
        calibrate=samples,
        input_shapes={"x": (64, K)} if not samples else None,
    )
    metadata = done.package.metadata
    assert metadata.error is not None
    assert 0 < metadata.error <= 0.05
    kernels = [layer.kernel for layer in metadata.layers]
    assert any(kernel.startswith("u8-") for kernel in kernels)
    assert any(name.startswith("u8-") for name in metadata.layers[0].candidates)
    if calibrated:
        x = tokens(16)
        got = np.concatenate([done.package.run({"x": x[i : i + 1]})["y"] for i in range(16)])
        # the chains of kernels may end elsewhere than those of the trial
        assert relative(got, exact(model, x)) == pytest.approx(metadata.error, rel=0.3)
    else:
        x = tokens(64)
        assert relative(done.package.run({"x": x})["y"], exact(model, x)) < 0.1


def test_layers_that_integers_make_no_faster_stay_in_float(tmp_path: Path) -> None:
    path = saved(tmp_path / "small.onnx", 24, 40, 12)
    metadata = api.compile_model(
        path, dtype="int8", target="x86-64-v3", input_shapes={"x": (64, 24)}
    ).package.metadata
    assert metadata.error == 0
    assert all(layer.kernel.startswith("f32-") for layer in metadata.layers)


def test_as_many_layers_as_the_error_allows(model: Path) -> None:
    counts = []
    for most in (0.01, 0.1):
        metadata = api.compile_model(
            model, dtype="int8", target="x86-64-v3", calibrate={"x": tokens(16)}, max_error=most
        ).package.metadata
        assert metadata.error is not None and 0 < metadata.error <= most
        counts.append(sum(layer.kernel.startswith("u8-") for layer in metadata.layers))
    assert counts == [1, 2]


def test_an_error_that_cannot_be_met(model: Path) -> None:
    with pytest.raises(UsageError, match="no linear layer can be rounded within"):
        api.compile_model(model, dtype="int8", max_error=1e-6)


def test_samples_that_do_not_fit(model: Path) -> None:
    with pytest.raises(DataError, match="rank 1"):
        api.compile_model(model, dtype="int8", calibrate={"x": np.zeros(4, np.float32)})
    with pytest.raises(DataError, match="samples"):
        api.compile_model(model, dtype="int8", calibrate={"x": np.zeros((0, K), np.float32)})
