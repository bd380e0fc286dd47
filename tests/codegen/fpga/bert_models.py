"""BERT-shaped encoders as ONNX files, made by hand: ids and a mask in, hidden states and a class out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def bert(
    path: Path,
    *,
    layers: int = 2,
    width: int = 48,
    hidden: int = 80,
    heads: int = 4,
    vocabulary: int = 60,
    longest: int = 64,
    activation: str = "Gelu",
    shape: tuple[int | str, int | str] = ("batch", "sequence"),
    causal: bool = False,
    prune: Callable[[np.ndarray], np.ndarray] = lambda matrix: matrix,
    seed: int = 0,
) -> Path:
    """ids, attention_mask int64 [batch, sequence] -> hidden f32 [batch, sequence, width], logits [batch, 2].

    Post-norm; the mask adds -10000 to keys that it hides, `causal`, for a fixed shape, to later ones. `prune`
    maps a weight [N, K] to the one stored.
    """
    rng = np.random.default_rng(seed)
    nodes: list[onnx.NodeProto] = []
    weights: dict[str, np.ndarray] = {}

    def node(op: str, *inputs: str, **attributes: object) -> str:
        nodes.append(helper.make_node(op, inputs, [f"v{len(nodes)}"], name=f"n{len(nodes)}", **attributes))
        return nodes[-1].output[0]

    def constant(name: str, array: np.ndarray) -> str:
        weights[name] = array.astype(np.float32) if array.dtype.kind == "f" else array
        return name

    def linear(x: str, name: str, n: int, k: int, size: float = 1.0) -> str:
        matrix = prune((rng.standard_normal((n, k)) * size * k**-0.5).astype(np.float32))
        kept = max(float((matrix != 0).mean()), 1e-3)
        product = node("MatMul", x, constant(f"{name}.weight", np.ascontiguousarray(matrix.T) / kept**0.5))
        return node("Add", product, constant(f"{name}.bias", rng.standard_normal(n) * 0.1))

    def norm(x: str, name: str) -> str:
        gain = constant(f"{name}.gain", 1 + 0.2 * rng.standard_normal(width))
        bias = constant(f"{name}.bias", 0.2 * rng.standard_normal(width))
        return node("LayerNormalization", x, gain, bias, axis=-1, epsilon=1e-12)

    def split(x: str, axes: list[int]) -> str:
        sizes = constant("split", np.array([0, 0, heads, width // heads]))
        return node("Transpose", node("Reshape", x, sizes), perm=axes)

    wide = node("Unsqueeze", "attention_mask", constant("axes", np.array([1, 2])))
    hidden_keys = node("Sub", constant("one", np.array(1.0)), node("Cast", wide, to=TensorProto.FLOAT))
    mask = node("Mul", hidden_keys, constant("low", np.array(-10_000.0)))
    if causal:
        late = np.triu(np.full((shape[1], shape[1]), -10_000.0), 1)
        mask = node("Add", mask, constant("late", late[None, None]))
    x = node("Gather", constant("words", rng.standard_normal((vocabulary, width))), "ids")
    length = node("Shape", "ids", start=1, end=2)
    positions = constant("positions", rng.standard_normal((longest, width)) * 0.3)
    here = node("Slice", positions, constant("zero", np.array([0])), length, constant("axis", np.array([0])))
    x = norm(node("Add", x, here), "embedding")
    root = constant("root", np.array((width // heads) ** 0.5))
    for n in range(layers):
        q, k = (linear(x, f"{n}.{name}", width, width, 0.8) for name in ("query", "key"))
        v = linear(x, f"{n}.value", width, width)
        scores = node("Div", node("MatMul", split(q, [0, 2, 1, 3]), split(k, [0, 2, 3, 1])), root)
        weighted = node("MatMul", node("Softmax", node("Add", scores, mask), axis=-1), split(v, [0, 2, 1, 3]))
        merged = node(
            "Reshape",
            node("Transpose", weighted, perm=[0, 2, 1, 3]),
            constant("merge", np.array([0, 0, width])),
        )
        x = norm(node("Add", linear(merged, f"{n}.output", width, width), x), f"{n}.norm1")
        inner = node(activation, linear(x, f"{n}.inner", hidden, width))
        x = norm(node("Add", linear(inner, f"{n}.outer", width, hidden), x), f"{n}.norm2")
    first = node("Gather", x, constant("first", np.array(0)), axis=1)
    logits = node("Tanh", linear(first, "pooler", width, width))
    logits = linear(logits, "classifier", 2, width)
    nodes.append(helper.make_node("Identity", [x], ["hidden"]))
    nodes.append(helper.make_node("Identity", [logits], ["logits"]))
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, list(shape))
        for name in ("ids", "attention_mask")
    ]
    outputs = [
        helper.make_tensor_value_info("hidden", TensorProto.FLOAT, [*shape, width]),
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, [shape[0], 2]),
    ]
    held = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "bert", inputs, outputs, held)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), str(path))
    return path
