"""Fused operators of ONNX Runtime, unfolded, against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import helper

from espalier.errors import ModelError
from espalier.passes.frontend.convert.graph import convert
from espalier.passes.frontend.values import Plain

pytestmark = pytest.mark.unit

node = helper.make_node
rng = np.random.default_rng(0)
Make = Callable[..., onnx.ModelProto]
Agree = Callable[..., Plain]
MS = {"domain": "com.microsoft"}
INPUTS = {"x": ("float32", ["b", "s", 8]), "k": ("float32", ["b", "s", 8])}


def f32(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


WEIGHTS = {"g": f32(8), "c": f32(8), "d": f32(8), "w": f32(8, 8)}
FUSED = {
    "gelu": node("Gelu", ["x"], ["y"], **MS),
    "bias gelu": node("BiasGelu", ["x", "c"], ["y"], **MS),
    "fast gelu": node("FastGelu", ["x", "c"], ["y"], **MS),
    "fast gelu alone": node("FastGelu", ["x"], ["y"], **MS),
    "quick gelu": node("QuickGelu", ["x"], ["y"], alpha=1.5, **MS),
    "fused matmul": node("FusedMatMul", ["x", "w"], ["y"], alpha=0.5, transB=1, **MS),
    "fused matmul of activations": node("FusedMatMul", ["x", "k"], ["y"], alpha=0.3, transA=1, **MS),
    "skip norm": node(
        "SkipLayerNormalization", ["x", "k", "g", "c", "d"], ["y", "", "", "sum"], epsilon=1e-5, **MS
    ),
    "skip norm without bias": node("SkipLayerNormalization", ["x", "k", "g", "c"], ["y"], **MS),
    "skip norm of one weight": node("SkipLayerNormalization", ["x", "k", "g"], ["y"], **MS),
    "skip rms": node("SkipSimplifiedLayerNormalization", ["x", "k", "g"], ["y"], **MS),
    "rms": node("SimplifiedLayerNormalization", ["x", "g"], ["y"], epsilon=1e-6),
}


@pytest.mark.parametrize("case", FUSED)
def test_fused_operator(case: str, make: Make, agree: Agree, tmp_path: object) -> None:
    model = make([FUSED[case]], INPUTS, WEIGHTS)
    feeds = {"x": f32(2, 3, 8), "k": f32(2, 3, 8)}
    if case == "rms":  # it has no domain of its own: the reader moves it
        from espalier.passes.frontend.check import check_model

        original = onnx.ModelProto.FromString(model.SerializeToString())
        check_model(model)
        assert model.graph.node[0].domain == "com.microsoft"
        model.graph.node[0].domain = "com.microsoft"
        assert convert(model).outputs
        assert original.graph.node[0].domain == ""
        return
    agree(model, feeds, atol=1e-4 if "fast" in case else 1e-5)


def test_embedding_norm(make: Make, agree: Agree) -> None:
    inputs = {n: ("int32", ["b", "s"]) for n in ("i", "t", "m")}
    weights = {"w": f32(20, 8), "p": f32(10, 8), "k": f32(2, 8), "g": f32(8), "c": f32(8)}
    outputs = {"y": "float32", "n": "int32"}
    names = ["i", "t", "w", "p", "k", "g", "c", "m"]
    model = make(
        [node("EmbedLayerNormalization", names, list(outputs), epsilon=1e-5, **MS)], inputs, weights, outputs
    )
    ids = rng.integers(0, 20, (2, 5)).astype(np.int32)
    plain = agree(model, {"i": ids, "t": ids % 2, "m": np.ones((2, 5), np.int32)})
    assert plain.limits == {"s": 10}


def test_fused_gemm(make: Make, agree: Agree) -> None:
    for name in ("Relu", "Tanh", "Sigmoid"):
        fused = node("FusedGemm", ["x", "w", "c"], ["y"], activation=name, transB=1, **MS)
        agree(make([fused], {"x": ("float32", ["b", 8])}, WEIGHTS), {"x": f32(3, 8)})


@pytest.mark.parametrize("zeros", [False, True])
def test_four_bit_matmul(zeros: bool, make: Make, agree: Agree) -> None:
    n, k, block = 6, 64, 32
    weights = {
        "w": rng.integers(0, 256, (n, k // block, block // 2), dtype=np.uint8),
        "s": np.abs(f32(n * k // block)) / 8,
        "z": rng.integers(0, 256, n, dtype=np.uint8),
    }
    names = ["x", "w", "s"] + (["z"] if zeros else [])
    matmul = node("MatMulNBits", names, ["y"], K=k, N=n, bits=4, block_size=block, **MS)
    agree(make([matmul], {"x": ("float32", ["b", k])}, weights), {"x": f32(3, k)}, atol=1e-3, rtol=1e-4)


REFUSED = {
    "batch transpose": node("FusedMatMul", ["x", "k"], ["y"], transBatchA=1, name="culprit", **MS),
    "gemm activation": node("FusedGemm", ["w", "w"], ["y"], activation="Selu", name="culprit", **MS),
    "three bits": node(
        "MatMulNBits", ["x", "w", "g"], ["y"], K=8, N=8, bits=3, block_size=16, name="culprit", **MS
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_form_names_the_node(case: str, make: Make) -> None:
    with pytest.raises(ModelError, match="culprit") as caught:
        convert(make([REFUSED[case]], INPUTS, WEIGHTS))
    assert caught.value.hint
