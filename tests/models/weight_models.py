"""Small ONNX models of every sparse structure in every form in which a weight reaches a linear layer.

Each model comes with the rows that `inspect` must print for it, which the model's maker knows and detection
has to find. `python tests/models/weight_models.py DIR` writes them all, each as NAME.onnx beside NAME.json.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.compose
from onnx import TensorProto, helper, numpy_helper

import espalier.sparsity as sp

N, K = 96, 64
node = helper.make_node


@dataclass(frozen=True)
class Row:
    """What `inspect` says of one weight."""

    name: str
    nodes: tuple[str, ...]
    matrix: np.ndarray
    structure: sp.Structure
    remainder: int = 0

    def to_dict(self) -> dict[str, Any]:
        """As in `inspect --json`, with the bytes that follow from the structure's formula alone."""
        params = self.structure.params() | ({"remainder": self.remainder} if self.remainder else {})
        width = self.matrix.dtype.itemsize * 8
        count = int(np.count_nonzero(self.matrix))
        rows, columns = self.matrix.shape
        return {
            "name": self.name,
            "node": self.nodes[0] if len(self.nodes) == 1 else list(self.nodes),
            "shape": [rows, columns],
            "structure": self.structure.name,
            "params": params,
            "sparsity": 1 - count / self.matrix.size,
            "bytes": {
                "dense": self.matrix.nbytes,
                "csr": count * (width // 8 + 4) + (rows + 1) * 4,
                "bitmap": -(-rows * columns // 8) + count * width // 8,
                "hp": self.hp_bytes(width),
            },
        }

    def hp_bytes(self, width: int) -> int | None:
        """With a weight apart: its row (7 bits of 96), column (6 bits of 64) and value."""
        if not isinstance(self.structure, sp.HP | sp.NM) and self.structure != STRUCTURES["bp"]:
            return None
        bits = self.structure.bits((self.matrix.shape[0], self.matrix.shape[1]), width)
        return -(-(bits + self.remainder * (7 + 6 + width)) // 8)


@dataclass(frozen=True)
class Case:
    """A model and its rows."""

    name: str
    model: onnx.ModelProto
    rows: tuple[Row, ...]


STRUCTURES: dict[str, sp.Structure] = {
    "dense": sp.Dense(),
    "zero": sp.Zero(),
    "2-4": sp.NM(2, 4),
    "1-8": sp.NM(1, 8),
    "hp": sp.HP(16, 32, 4, 2),
    "hp-g4": sp.HP(32, 32, 4, 2, 4),
    "hp-1-4": sp.HP(48, 40, 4, 1),
    "bp": sp.BP(16, 24),
    "bp-rows": sp.BP(16, 24, "rows"),
    "pp": sp.PP(8, 4, 16),
    "bp-pp": sp.BPPP(32, 32, 8, 3, 30),
    "block-16x1": sp.Block(16, 1, 100),
    "block-4x4": sp.Block(4, 4, 96),
    "unstructured": sp.Unstructured(1500),
}


def weight(structure: sp.Structure, shape: tuple[int, int] = (N, K), seed: int = 0) -> np.ndarray:
    """A float32 weight of the structure with no kept zero; its values are halves, exact in float16."""
    random = np.random.default_rng(seed)
    values = random.integers(1, 60, shape) * random.choice([-0.5, 0.5], shape)
    return np.where(structure.mask(values + random.random(shape) / 4), values, 0).astype(np.float32)


def model(
    nodes: list[onnx.NodeProto],
    weights: dict[str, np.ndarray],
    *,
    output: str = "y",
    columns: int = K,
    outputs: int = N,
    ids: bool = False,
    rank: int = 3,
) -> onnx.ModelProto:
    """x float [batch, sequence, columns] (rank 2: [batch, columns]) -> output; or `ids` int64."""
    lead = ["batch", "sequence"] if rank == 3 else ["batch"]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [*lead, columns])
    inputs = [helper.make_tensor_value_info("ids", TensorProto.INT64, lead)] if ids else [x]
    graph = helper.make_graph(
        nodes,
        "weights",
        inputs,
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [*lead, outputs])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(made, full_check=True)
    return made


Form = Callable[[np.ndarray], onnx.ModelProto]
"""From a matrix [N, K] to a model with one linear layer `dense` whose bytes are named `W`."""


def matmul(w: np.ndarray) -> onnx.ModelProto:
    return model([node("MatMul", ["x", "W"], ["y"], name="dense")], {"W": w.T.copy()})


def transposed(w: np.ndarray) -> onnx.ModelProto:
    nodes = [node("Transpose", ["W"], ["t"], perm=[1, 0]), node("MatMul", ["x", "t"], ["y"], name="dense")]
    return model(nodes, {"W": w})


def identity(w: np.ndarray) -> onnx.ModelProto:
    nodes = [node("Identity", ["W"], ["t"]), node("MatMul", ["x", "t"], ["y"], name="dense")]
    return model(nodes, {"W": w.T.copy()})


def cast(w: np.ndarray) -> onnx.ModelProto:
    nodes = [
        node("Cast", ["W"], ["t"], to=TensorProto.FLOAT),
        node("MatMul", ["x", "t"], ["y"], name="dense"),
    ]
    return model(nodes, {"W": w.T.astype(np.float16)})


def reshaped(w: np.ndarray) -> onnx.ModelProto:
    nodes = [node("Reshape", ["W", "to"], ["t"]), node("MatMul", ["x", "t"], ["y"], name="dense")]
    return model(nodes, {"W": w.T.reshape(K, 8, -1).copy(), "to": np.array([K, N])})


def dequantised(w: np.ndarray) -> onnx.ModelProto:
    nodes = [
        node("DequantizeLinear", ["W", "scale"], ["t"]),
        node("MatMul", ["x", "t"], ["y"], name="dense"),
    ]
    return model(nodes, {"W": (w.T * 2).astype(np.int8), "scale": np.float32(0.5)})


def dequantised_by_channel(w: np.ndarray) -> onnx.ModelProto:
    nodes = [
        node("DequantizeLinear", ["W", "scale", "zero"], ["t"], axis=1),
        node("MatMul", ["x", "t"], ["y"], name="dense"),
    ]
    scale, zero = np.full(N, 0.5, np.float32), np.zeros(N, np.int8)
    return model(nodes, {"W": (w.T * 2).astype(np.int8), "scale": scale, "zero": zero})


def all_at_once(w: np.ndarray) -> onnx.ModelProto:
    nodes = [
        node("Cast", ["W"], ["a"], to=TensorProto.FLOAT),
        node("Reshape", ["a", "to"], ["b"]),
        node("Identity", ["b"], ["c"]),
        node("Transpose", ["c"], ["d"], perm=[1, 0]),
        node("MatMul", ["x", "d"], ["y"], name="dense"),
    ]
    return model(nodes, {"W": w.reshape(-1).astype(np.float16), "to": np.array([N, K])})


def constant_node(w: np.ndarray) -> onnx.ModelProto:
    nodes = [
        node("Constant", [], ["W"], value=numpy_helper.from_array(w.T.copy())),
        node("MatMul", ["x", "W"], ["y"], name="dense"),
    ]
    return model(nodes, {})


def bias_second(w: np.ndarray) -> onnx.ModelProto:
    nodes = [node("MatMul", ["x", "W"], ["h"], name="dense"), node("Add", ["h", "c"], ["y"])]
    return model(nodes, {"W": w.T.copy(), "c": np.ones(N, np.float32)})


def bias_first(w: np.ndarray) -> onnx.ModelProto:
    nodes = [node("MatMul", ["x", "W"], ["h"], name="dense"), node("Add", ["c", "h"], ["y"])]
    return model(nodes, {"W": w.T.copy(), "c": np.full((1, 1, N), 2, np.float32)})


def gemm(w: np.ndarray) -> onnx.ModelProto:
    made = node("Gemm", ["x", "W"], ["y"], name="dense")
    return model([made], {"W": w.T.copy()}, rank=2)


def gemm_transposed(w: np.ndarray) -> onnx.ModelProto:
    made = node("Gemm", ["x", "W", "c"], ["y"], name="dense", transB=1)
    return model([made], {"W": w, "c": np.ones(N, np.float32)}, rank=2)


def gemm_scaled(w: np.ndarray) -> onnx.ModelProto:
    made = node("Gemm", ["x", "W", "c"], ["y"], name="dense", transB=1, alpha=0.5, beta=2.0)
    return model([made], {"W": w, "c": np.ones((1, N), np.float32)}, rank=2)


FORMS: dict[str, Form] = {
    "matmul": matmul,
    "transposed": transposed,
    "identity": identity,
    "cast": cast,
    "reshaped": reshaped,
    "dequantised": dequantised,
    "dequantised-by-channel": dequantised_by_channel,
    "all-at-once": all_at_once,
    "constant-node": constant_node,
    "bias-second": bias_second,
    "bias-first": bias_first,
    "gemm": gemm,
    "gemm-transposed": gemm_transposed,
    "gemm-scaled": gemm_scaled,
}


def single(structure: str, form: str) -> Case:
    """One linear layer."""
    w = weight(STRUCTURES[structure])
    return Case(f"{form}_{structure}", FORMS[form](w), (Row("W", ("dense",), w, STRUCTURES[structure]),))


def shared(structure: str) -> Case:
    """One weight [K, K] that two nodes use: one row."""
    made = STRUCTURES[structure]
    w = weight(made, (K, K))
    nodes = [
        node("MatMul", ["x", "W"], ["h"], name="first"),
        node("Relu", ["h"], ["r"]),
        node("MatMul", ["r", "W"], ["y"], name="second"),
    ]
    row = Row("W", ("first", "second"), w, made)
    return Case(f"shared_{structure}", model(nodes, {"W": w.T.copy()}, outputs=K), (row,))


def fused_qkv(structure: str) -> Case:
    """One weight of 3 x 32 rows whose product is split: one row."""
    made = STRUCTURES[structure]
    w = weight(made)
    nodes = [
        node("MatMul", ["x", "W"], ["qkv"], name="qkv"),
        node("Add", ["qkv", "c"], ["biased"]),
        node("Split", ["biased"], ["q", "k", "v"], axis=2),
        node("Transpose", ["k"], ["kt"], perm=[0, 2, 1]),
        node("MatMul", ["q", "kt"], ["score"], name="score"),
        node("Softmax", ["score"], ["p"], axis=-1),
        node("MatMul", ["p", "v"], ["y"], name="context"),
    ]
    weights = {"W": w.T.copy(), "c": np.ones(N, np.float32)}
    return Case(
        f"fused-qkv_{structure}", model(nodes, weights, outputs=N // 3), (Row("W", ("qkv",), w, made),)
    )


def tied_embedding(structure: str) -> Case:
    """A table [N, K] that is gathered from and multiplied by: a row for the product."""
    made = STRUCTURES[structure]
    w = weight(made)
    nodes = [
        node("Gather", ["W", "ids"], ["h"]),
        node("Transpose", ["W"], ["t"], perm=[1, 0]),
        node("MatMul", ["h", "t"], ["y"], name="logits"),
    ]
    return Case(
        f"tied-embedding_{structure}", model(nodes, {"W": w}, ids=True), (Row("W", ("logits",), w, made),)
    )


def together(rank: int) -> Case:
    """Every form whose x has this rank side by side in one model, each with another structure."""
    whole, rows = None, []
    for (form, make), structure in zip(FORMS.items(), STRUCTURES, strict=True):
        w = weight(STRUCTURES[structure])
        made = make(w)
        if len(made.graph.input[0].type.tensor_type.shape.dim) != rank:
            continue
        prefix = f"{form}/"
        part = onnx.compose.add_prefix(made, prefix)
        for item in part.graph.node:
            item.input[:] = ["x" if name == f"{prefix}x" else name for name in item.input]
        rows.append(Row(f"{prefix}W", (f"{prefix}dense",), w, STRUCTURES[structure]))
        if whole is None:
            whole = part
            whole.graph.input[0].CopyFrom(made.graph.input[0])
        else:
            whole.graph.node.extend(part.graph.node)
            whole.graph.initializer.extend(part.graph.initializer)
            whole.graph.output.extend(part.graph.output)
    assert whole is not None
    for value in (*whole.graph.input, *whole.graph.output):
        for dim, name in zip(value.type.tensor_type.shape.dim[:-1], ("batch", "sequence"), strict=False):
            dim.dim_param = name
    onnx.checker.check_model(whole, full_check=True)
    return Case(f"together-{rank}", whole, tuple(rows))


def stray() -> Case:
    """HP with one weight outside."""
    made = STRUCTURES["hp-g4"]
    w = weight(made)
    w[tuple(np.argwhere(w == 0)[100])] = 7
    return Case("matmul_hp-g4-stray", matmul(w), (Row("W", ("dense",), w, made, 1),))


def tower() -> Case:
    """Every structure in one model: a chain of layers whose names say what they are."""
    nodes, weights, rows = [], {}, []
    value, columns = "x", K
    for name, structure in STRUCTURES.items():
        shape = (N, K) if columns == K else (K, N)
        w = weight(structure, shape, seed=len(rows))
        weights[f"W_{name}"], weights[f"s_{name}"] = w.T.copy(), np.float32(1 / 256)
        weights[f"c_{name}"] = np.linspace(-1, 1, shape[0], dtype=np.float32)
        nodes += [
            node("MatMul", [value, f"W_{name}"], [f"m_{name}"], name=f"layer_{name}"),
            node("Mul", [f"m_{name}", f"s_{name}"], [f"a_{name}"]),
            node("Add", [f"a_{name}", f"c_{name}"], [f"b_{name}"]),
            node("Relu", [f"b_{name}"], [f"y_{name}"]),
        ]
        rows.append(Row(f"W_{name}", (f"layer_{name}",), w, structure))
        value, columns = f"y_{name}", shape[0]
    return Case("tower", model(nodes, weights, output=value, outputs=columns), tuple(rows))


def cases() -> list[Case]:
    """All of them."""
    return [
        *(single(structure, form) for form in FORMS for structure in STRUCTURES),
        *(make(structure) for make in (fused_qkv, tied_embedding) for structure in STRUCTURES),
        *(shared(structure) for structure in ("dense", "2-4", "hp", "bp", "unstructured")),
        together(2),
        together(3),
        stray(),
        tower(),
    ]


def main(folder: str) -> None:
    Path(folder).mkdir(parents=True, exist_ok=True)
    for case in cases():
        onnx.save(case.model, Path(folder, f"{case.name}.onnx"))
        rows = json.dumps({"weights": [row.to_dict() for row in case.rows]}, indent=1)
        Path(folder, f"{case.name}.json").write_text(rows)


if __name__ == "__main__":
    main(sys.argv[1])
