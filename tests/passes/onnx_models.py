"""A small encoder as an ONNX file, made by hand, with its linear weights pruned to any structure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WIDTH, HEADS, INNER, VOCABULARY, LONGEST = 32, 2, 48, 50, 64


class Graph:
    """Nodes and weights under construction."""

    def __init__(self, dtype: str = "float32", seed: int = 0) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}
        self.dtype = dtype
        self.rng = np.random.default_rng(seed)

    def node(self, op: str, *inputs: str, **attributes: object) -> str:
        name = f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def weight(self, name: str, array: np.ndarray) -> str:
        self.weights[name] = array.astype(self.dtype) if array.dtype.kind == "f" else array
        return name

    def normal(self, name: str, *shape: int) -> str:
        return self.weight(name, self.rng.standard_normal(shape) * 0.2)

    def sizes(self, name: str, *values: int) -> str:
        return self.weight(name, np.array(values, np.int64))


def encoder(path: Path, prune: Callable[[np.ndarray], np.ndarray], *, dtype: str = "float32") -> Path:
    """ids [batch, sequence] -> hidden [batch, sequence, 32]: embedding, one post-norm layer with erf GELU.

    `prune` maps a weight [N, K] to the one that is stored.
    """
    graph = Graph(dtype)

    def linear(x: str, name: str, n: int, k: int) -> str:
        matrix = prune((graph.rng.standard_normal((n, k)) * 0.2).astype("float32"))
        product = graph.node("MatMul", x, graph.weight(f"{name}.weight", np.ascontiguousarray(matrix.T)))
        return graph.node("Add", product, graph.normal(f"{name}.bias", n))

    def heads(x: str, *axes: int) -> str:
        split = graph.node("Reshape", x, graph.sizes("split", 0, 0, HEADS, WIDTH // HEADS))
        return graph.node("Transpose", split, perm=axes)

    def norm(x: str, name: str) -> str:
        gain, bias = graph.normal(f"{name}.gain", WIDTH), graph.normal(f"{name}.bias", WIDTH)
        return graph.node("LayerNormalization", x, gain, bias, axis=-1, epsilon=1e-12)

    x = norm(graph.node("Gather", graph.normal("words", VOCABULARY, WIDTH), "ids"), "embedding")
    query, key, value = (linear(x, name, WIDTH, WIDTH) for name in ("query", "key", "value"))
    scores = graph.node("MatMul", heads(query, 0, 2, 1, 3), heads(key, 0, 2, 3, 1))
    root = graph.weight("root", np.array((WIDTH // HEADS) ** 0.5))
    scores = graph.node("Softmax", graph.node("Div", scores, root), axis=-1)
    mixed = graph.node("MatMul", scores, heads(value, 0, 2, 1, 3))
    merged = graph.node(
        "Reshape", graph.node("Transpose", mixed, perm=[0, 2, 1, 3]), graph.sizes("merge", 0, 0, WIDTH)
    )
    x = norm(graph.node("Add", linear(merged, "output", WIDTH, WIDTH), x), "attention.norm")
    inner = linear(x, "inner", INNER, WIDTH)
    erf = graph.node("Erf", graph.node("Div", inner, graph.weight("root2", np.array(2**0.5))))
    gate = graph.node("Add", erf, graph.weight("one", np.array(1.0)))
    gelu = graph.node("Mul", graph.node("Mul", inner, gate), graph.weight("half", np.array(0.5)))
    x = norm(graph.node("Add", linear(gelu, "outer", WIDTH, INNER), x), "output.norm")
    graph.nodes[-1].output[0] = "hidden"
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "sequence"])
    hidden = helper.make_tensor_value_info("hidden", element, ["batch", "sequence", WIDTH])
    held = [numpy_helper.from_array(array, name) for name, array in graph.weights.items()]
    model = helper.make_model(
        helper.make_graph(graph.nodes, "encoder", [ids], [hidden], held),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )
    onnx.save(model, path)
    return path
