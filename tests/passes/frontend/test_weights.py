"""The weights of linear layers, under the names their bytes have in the file."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from espalier.errors import ModelError
from espalier.passes.frontend import LinearWeight, linear_weights

pytestmark = pytest.mark.unit

node = helper.make_node
rng = np.random.default_rng(0)
Make = Callable[..., onnx.ModelProto]
K, N = 8, 6
W = rng.standard_normal((K, N)).astype(np.float32) * (rng.random((K, N)) > 0.5)
X = {"x": ("float32", ["b", "s", K])}


def product(weight: str, name: str = "dense") -> onnx.NodeProto:
    return node("MatMul", ["x", weight], ["y"], name=name)


SCALE = np.float32(0.5)
CODES = rng.integers(-8, 8, (K, N)).astype(np.int8)
# name: (nodes, weights, matrix)
FORMS: dict[str, tuple[list[onnx.NodeProto], dict[str, np.ndarray], np.ndarray]] = {
    "plain": ([product("W")], {"W": W}, W.T),
    "transposed": ([node("Transpose", ["W"], ["t"]), product("t")], {"W": W.T.copy()}, W.T),
    "identity": ([node("Identity", ["W"], ["t"]), product("t")], {"W": W}, W.T),
    "cast": (
        [node("Cast", ["W"], ["t"], to=TensorProto.FLOAT), product("t")],
        {"W": W.astype(np.float16)},
        W.astype(np.float16).astype(np.float32).T,
    ),
    "reshaped": (
        [node("Reshape", ["W", "to"], ["t"]), product("t")],
        {"W": W.reshape(-1), "to": np.array([K, N])},
        W.T,
    ),
    "dequantised": (
        [node("DequantizeLinear", ["W", "scale"], ["t"]), product("t")],
        {"W": CODES, "scale": SCALE},
        CODES.T * SCALE,
    ),
    "cast and scaled": (
        [node("Cast", ["W"], ["c"], to=TensorProto.FLOAT), node("Mul", ["c", "scale"], ["t"]), product("t")],
        {"W": CODES, "scale": np.full((1, N), 0.5, np.float32)},
        CODES.T * SCALE,
    ),
    "masked": (
        [node("Mul", ["mask", "W"], ["t"]), product("t")],
        {"W": np.ones_like(W) * 3, "mask": (W != 0).astype(np.float32)},
        (W.T != 0) * np.float32(3),
    ),
    "batched": ([product("W")], {"W": W[None]}, W.T),
    "constant node": (
        [node("Constant", [], ["W"], value=onnx.numpy_helper.from_array(W)), product("W")],
        {},
        W.T,
    ),
    "gemm": (
        [
            node("Reshape", ["x", "to"], ["r"]),
            node("Gemm", ["r", "W", "c"], ["y"], transB=1, beta=0.5, name="dense"),
        ],
        {"W": W.T.copy(), "c": np.ones(N, np.float32), "to": np.array([-1, K])},
        W.T,
    ),
    "left": (
        [node("Transpose", ["x"], ["t"], perm=[0, 2, 1]), node("MatMul", ["W", "t"], ["y"], name="dense")],
        {"W": W.T.copy()},
        W.T,
    ),
    "einsum": ([node("Einsum", ["x", "W"], ["y"], equation="bsk,kn->bsn", name="dense")], {"W": W}, W.T),
    "integer": (
        [
            node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
            node("MatMulInteger", ["q", "W", "z", "wz"], ["i"], name="dense"),
            node("Cast", ["i"], ["y"], to=TensorProto.FLOAT),
        ],
        {"W": CODES, "wz": np.int8(2)},
        CODES.T.astype(np.int32) - 2,
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_weight_form(form: str, make: Make) -> None:
    nodes, weights, matrix = FORMS[form]
    (found,) = linear_weights(make(nodes, X, weights, opset=17))
    assert (found.name, found.nodes) == ("W", ("dense",))
    np.testing.assert_array_equal(found.matrix, matrix)
    assert found.matrix.flags.c_contiguous


def test_shared_weight_is_one_row(make: Make) -> None:
    nodes = [
        node("MatMul", ["x", "W"], ["a"], name="first"),
        node("MatMul", ["a", "W"], ["y"], name="second"),
    ]
    (found,) = linear_weights(make(nodes, X, {"W": W[:, :1] @ W[:, :1].T}))
    assert found.nodes == ("first", "second")


def test_tied_embedding_counts_where_it_multiplies(make: Make) -> None:
    table = rng.standard_normal((20, K)).astype(np.float32)
    nodes = [
        node("Gather", ["table", "ids"], ["e"]),
        node("Transpose", ["table"], ["t"]),
        node("MatMul", ["e", "t"], ["y"], name="head"),
    ]
    (found,) = linear_weights(make(nodes, {"ids": ("int64", ["b", "s"])}, {"table": table}))
    assert (found.name, found.nodes) == ("table", ("head",))
    np.testing.assert_array_equal(found.matrix, table)


def test_products_of_activations_have_no_weight(make: Make) -> None:
    nodes = [node("Transpose", ["x"], ["t"], perm=[0, 2, 1]), node("MatMul", ["x", "t"], ["y"])]
    assert linear_weights(make(nodes, X)) == []


def test_node_without_a_name_is_called_after_its_output(make: Make) -> None:
    (found,) = linear_weights(make([node("MatMul", ["x", "W"], ["y"])], X, {"W": W}))
    assert found.nodes == ("y",)


def test_weight_that_overflows_when_unfolded_is_refused(make: Make) -> None:
    nodes = [node("DequantizeLinear", ["W", "scale"], ["t"]), product("t")]
    with pytest.raises(ModelError, match="dense: weight W holds NaN or infinity"), np.errstate(over="ignore"):
        linear_weights(make(nodes, X, {"W": CODES, "scale": np.float32(3e38)}))


def test_value_type() -> None:
    weight = LinearWeight("W", ("a",), W)
    with pytest.raises(AttributeError):
        weight.name = "V"  # pyright: ignore[reportAttributeAccessIssue]


def test_no_compiler_is_imported(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(make([product("W")], X, {"W": W}), path)
    code = (
        "import sys\n"
        "from espalier.passes.frontend import linear_weights, read_model\n"
        f"assert len(linear_weights(read_model({str(path)!r}))) == 1\n"
        "print([name for name in ('tvm', 'torch', 'onnxruntime') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
