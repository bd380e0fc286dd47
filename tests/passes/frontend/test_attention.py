"""Attention and rotary positions, standard and ONNX Runtime's, against ONNX Runtime."""

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


def f32(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


QKV = {n: ("float32", ["b", 4 if n == "q" else 2, "s" if n == "q" else "t", 8]) for n in "qkv"}


@pytest.mark.parametrize("mask", [None, "bool", "float32"])
@pytest.mark.parametrize("attrs", [{}, {"is_causal": 1}, {"scale": 0.3, "softcap": 2.0}])
def test_standard_attention(mask: str | None, attrs: dict[str, float], make: Make, agree: Agree) -> None:
    inputs = dict(QKV)
    feeds = {"q": f32(2, 4, 5, 8), "k": f32(2, 2, 6, 8), "v": f32(2, 2, 6, 8)}
    if mask:
        inputs["m"] = (mask, ["b", 1, "s", "t"])
        feeds["m"] = f32(2, 1, 5, 6) if mask == "float32" else rng.random((2, 1, 5, 6)) > 0.4
        feeds["m"][..., 0] = 1
    agree(make([node("Attention", list(inputs), ["y"], **attrs)], inputs, opset=23), feeds)


@pytest.mark.parametrize("dtype", ["bool", "float32"])
def test_query_that_sees_nothing_gives_zeros(dtype: str, make: Make, agree: Agree) -> None:
    seen = np.array([[1, 0, 0], [0, 0, 0], [1, 1, 1]], bool)
    mask = seen if dtype == "bool" else np.where(seen, 0, -np.inf).astype(np.float32)
    inputs = {n: ("float32", ["b", 2, 3, 8]) for n in "qkv"} | {"m": (dtype, [3, 3])}
    feeds = {n: f32(2, 2, 3, 8) for n in "qkv"} | {"m": mask}
    agree(make([node("Attention", list(inputs), ["y"])], inputs, opset=23), feeds)


def test_attention_on_three_dimensions_with_a_past(make: Make, agree: Agree) -> None:
    inputs = {
        "q": ("float32", ["b", "s", 32]), "k": ("float32", ["b", "s", 16]), "v": ("float32", ["b", "s", 16]),
        "pk": ("float32", ["b", 2, "p", 8]), "pv": ("float32", ["b", 2, "p", 8]),
    }  # fmt: skip
    attrs = {"q_num_heads": 4, "kv_num_heads": 2}
    names = ["q", "k", "v", "", "pk", "pv"]
    outputs = {"y": "float32", "nk": "float32", "nv": "float32"}
    model = make([node("Attention", names, list(outputs), **attrs)], inputs, outputs=outputs, opset=23)
    feeds = {
        "q": f32(2, 3, 32),
        "k": f32(2, 3, 16),
        "v": f32(2, 3, 16),
        "pk": f32(2, 2, 4, 8),
        "pv": f32(2, 2, 4, 8),
    }
    agree(model, feeds)


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("attrs", [{}, {"interleaved": 1}, {"rotary_embedding_dim": 4}])
def test_rotary(flat: bool, attrs: dict[str, int], make: Make, agree: Agree) -> None:
    width = attrs.get("rotary_embedding_dim", 8) // 2
    attrs = attrs | ({"num_heads": 3} if flat else {})
    inputs = {"x": ("float32", ["b", "s", 24] if flat else ["b", 3, "s", 8]), "p": ("int64", ["b", "s"])}
    weights = {"c": f32(16, width), "d": f32(16, width)}
    feeds = {"x": f32(2, 5, 24) if flat else f32(2, 3, 5, 8), "p": rng.integers(0, 16, (2, 5))}
    agree(
        make([node("RotaryEmbedding", ["x", "c", "d", "p"], ["y"], **attrs)], inputs, weights, opset=23),
        feeds,
    )
    contrib = node("RotaryEmbedding", ["x", "p", "c", "d"], ["y"], **attrs, **MS)
    if "rotary_embedding_dim" not in attrs:
        agree(make([contrib], inputs, weights), feeds)


def test_contrib_attention(make: Make, agree: Agree) -> None:
    inputs = {"x": ("float32", ["b", "s", 16]), "m": ("int32", ["b", "s"])}
    weights = {"w": f32(16, 48), "c": f32(48)}
    mask = np.ones((2, 5), np.int32)
    mask[1, 3:] = 0
    feeds = {"x": f32(2, 5, 16), "m": mask}
    for attrs in ({}, {"scale": 0.2}, {"unidirectional": 1}):
        model = make(
            [node("Attention", ["x", "w", "c", "m"], ["y"], num_heads=4, **attrs, **MS)], inputs, weights
        )
        agree(model, feeds)
    ends = {"x": inputs["x"], "m": ("int32", ["b"])}
    model = make([node("Attention", ["x", "w", "c", "m"], ["y"], num_heads=4, **MS)], ends, weights)
    agree(model, {"x": feeds["x"], "m": np.array([5, 3], np.int32)})


def test_contrib_multi_head_attention(make: Make, agree: Agree) -> None:
    inputs = {n: ("float32", ["b", "s" if n == "q" else "t", 16]) for n in "qkv"} | {
        "m": ("int32", ["b", "t"])
    }
    inputs["e"] = ("float32", ["b", 4, "s", "t"])
    mask = np.ones((2, 6), np.int32)
    mask[0, 4:] = 0
    feeds = {"q": f32(2, 5, 16), "k": f32(2, 6, 16), "v": f32(2, 6, 16), "m": mask, "e": f32(2, 4, 5, 6)}
    attention = node("MultiHeadAttention", ["q", "k", "v", "c", "m", "e"], ["y"], num_heads=4, **MS)
    agree(make([attention], inputs, {"c": f32(48)}), feeds)


REFUSED = {
    "packed": node("MultiHeadAttention", ["x"], ["y"], num_heads=2, name="culprit", **MS),
    "rotary inside": node("Attention", ["x", "w"], ["y"], num_heads=2, do_rotary=1, name="culprit", **MS),
    "a past": node("Attention", ["x", "w", "", "", "p"], ["y"], num_heads=2, name="culprit", **MS),
    "mask of 4": node("Attention", ["x", "w", "", "m"], ["y"], num_heads=2, name="culprit", **MS),
    "rotary scale": node("RotaryEmbedding", ["x", "i", "t", "t"], ["y"], scale=2.0, name="culprit", **MS),
    "rotary offset": node("RotaryEmbedding", ["x", "o", "t", "t"], ["y"], name="culprit", **MS),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_attention_names_the_node(case: str, make: Make) -> None:
    weights = {
        "w": f32(16, 48), "p": f32(2, 2, 2, 1, 8), "m": np.ones((2, 1, 9, 9), np.int32), "t": f32(9, 4),
        "i": np.zeros((2, 5), np.int64), "o": np.array([3]),
    }  # fmt: skip
    with pytest.raises(ModelError, match="culprit") as caught:
        convert(make([REFUSED[case]], {"x": ("float32", [2, 5, 16])}, weights))
    assert caught.value.hint


def test_attention_refuses_heads_that_do_not_divide(make: Make) -> None:
    inputs = {n: ("float32", ["b", 3 if n == "q" else 2, "s", 8]) for n in "qkv"}
    with pytest.raises(ModelError, match="3 query heads and 2 key heads"):
        convert(make([node("Attention", ["q", "k", "v"], ["y"])], inputs, opset=23))
