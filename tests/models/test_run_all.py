"""Compiled models of every structure and weight form give what ONNX Runtime gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import weight_models as models

import espalier as es

pytestmark = pytest.mark.compile

CASES = {
    case.name: case
    for case in (
        models.tower(),
        models.together(2),
        models.together(3),
        models.shared("hp"),
        models.fused_qkv("hp-g4"),
        models.tied_embedding("hp"),
        models.stray(),
    )
}


@pytest.mark.parametrize("name", CASES)
def test_equals_onnx_runtime(name: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(CASES[name].model, path)
    options = onnxruntime.SessionOptions()  # its fusions quantise the x of a dequantised weight
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    package = es.compile(path)
    random = np.random.default_rng(0)
    (source,) = session.get_inputs()
    for lead in ((1, 1), (2, 7), (3, 33)):
        if source.name == "ids":
            feed = {"ids": random.integers(0, models.N, lead)}
        else:
            shape = (*lead[: len(source.shape) - 1], models.K)
            feed = {"x": random.standard_normal(shape).astype(np.float32)}
        outputs = package.run(feed)
        names = [output.name for output in session.get_outputs()]
        for name, expected in zip(names, session.run(names, feed), strict=True):
            scale = float(np.abs(expected).max()) or 1.0
            np.testing.assert_allclose(outputs[name], expected, rtol=0, atol=2e-5 * scale, err_msg=name)
