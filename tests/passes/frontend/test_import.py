"""Imported modules: their interface, and what they compute once compiled, at many lengths."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import tvm
from onnx import TensorProto, helper
from tvm import relax

from espalier.errors import UsageError
from espalier.passes.frontend import Imported, import_model, read_model

pytestmark = pytest.mark.compile

node = helper.make_node
rng = np.random.default_rng(0)
Make = Callable[..., onnx.ModelProto]


def f32(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def compiled(imported: Imported) -> Callable[..., list[np.ndarray]]:
    machine = relax.VirtualMachine(tvm.compile(imported.mod, target="llvm"), tvm.cpu())
    weights = [tvm.runtime.tensor(weight.array) for weight in imported.weights.values()]

    def run(*arrays: np.ndarray) -> list[np.ndarray]:
        result = machine["main"](*map(tvm.runtime.tensor, arrays), *weights)
        return [result.numpy()] if hasattr(result, "numpy") else [item.numpy() for item in result]

    return run


def session(data: bytes | str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def test_interface(make: Make) -> None:
    nodes = [
        node("MatMul", ["in/x:0", "a.b"], ["h"], name="first"),
        node("MatMul", ["h", "a_b"], ["g"], name="second"),
        node("Add", ["g", "a b"], ["out put"]),
        node("Mul", ["out put", "half"], ["y"]),
    ]
    weights = {"a.b": f32(8, 8), "a_b": f32(8, 20), "a b": f32(20), "half": np.float32(0.5)}
    model = make(
        nodes, {"in/x:0": ("float32", ["b", "s", 8])}, weights, {"out put": "float32", "y": "float32"}
    )
    imported = import_model(model, max_shapes={"in/x:0": [4, 64, 8]})
    main = imported.mod["main"]
    assert [str(p.name) for p in main.params] == ["in_x_0", "a_b", "a_b_1", "a_b_2"]
    assert int(main.attrs["num_input"]) == 1
    assert {k: int(v) for k, v in main.attrs["tir_var_upper_bound"].items()} == {"b": 4, "s": 64}
    assert [(w.name, w.nodes) for w in imported.weights.values()] == [
        ("a.b", ("first",)),
        ("a_b", ("second",)),
        ("a b", ("out put",)),
    ]
    assert [(i.name, i.shape, i.dtype) for i in imported.inputs] == [("in/x:0", ("b", "s", 8), "float32")]
    assert imported.inputs[0].limits == {"b": 4, "s": 64}
    assert [(o.name, o.shape) for o in imported.outputs] == [
        ("out put", ("b", "s", 20)),
        ("y", ("b", "s", 20)),
    ]
    relax.analysis.well_formed(imported.mod)


BOUNDS = {
    "no such input": ({"z": [4, 8]}, "'z'"),
    "wrong rank": ({"x": [4]}, "2 dimensions"),
    "below an extent": ({"x": [4, 7]}, "axis 1 is 8"),
    "no extent": ({"x": [0, 8]}, "bound 0"),
}


@pytest.mark.parametrize("case", BOUNDS)
def test_bounds_that_contradict_the_model(case: str, make: Make) -> None:
    bounds, word = BOUNDS[case]
    with pytest.raises(UsageError, match=word) as caught:
        import_model(make([node("Relu", ["x"], ["y"])], {"x": ("float32", ["b", 8])}), max_shapes=bounds)
    assert caught.value.hint


def test_equal_constants_are_one_parameter(make: Make) -> None:
    nodes = [
        node("Transpose", ["w"], ["t"]),
        node("Transpose", ["w"], ["u"]),
        node("MatMul", ["x", "t"], ["a"]),
        node("MatMul", ["a", "u"], ["y"]),
    ]
    imported = import_model(make(nodes, {"x": ("float32", ["b", 8])}, {"w": f32(8, 8)}))
    ((name, weight),) = imported.weights.items()
    assert (name, weight.name, len(weight.nodes)) == ("w", "w", 2)


# every plain operator once, at a length that is no multiple of anything
PLAIN = [
    *(
        node(op, ["x"], [op])
        for op in ("Abs", "Neg", "Exp", "Erf", "Sin", "Cos", "Floor", "Ceil", "Round", "Sign")
    ),
    *(
        node(op, ["x"], [op])
        for op in ("Relu", "Tanh", "Sigmoid", "Gelu", "Softmax", "LogSoftmax", "Reciprocal")
    ),
    node("Gelu", ["x"], ["gelu_tanh"], approximate="tanh"),
    node("Sqrt", ["Exp"], ["Sqrt"]),
    *(
        node(op, ["x"], [op], keepdims=0)
        for op in ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum", "ArgMax")
    ),
    node("LayerNormalization", ["x", "g", "c"], ["LayerNormalization"]),
    node("Cast", ["x"], ["i"], to=TensorProto.INT64),
    node("Mod", ["i", "three"], ["Mod"]),
    node("Div", ["i", "three"], ["Div"]),
    node("Pow", ["x", "two"], ["Pow"]),
    node("CumSum", ["x", "one"], ["CumSum"]),
    node("Gather", ["x", "some"], ["Gather"], axis=2),
    node("GatherElements", ["x", "ArgMaxK"], ["GatherElements"], axis=2),
    node("ArgMax", ["x"], ["ArgMaxK"], axis=2),
    node("Trilu", ["x", "one"], ["Trilu"]),
    node("Pad", ["x", "pads"], ["Pad"]),
    node("Tile", ["x", "times"], ["Tile"]),
    node("Concat", ["x", "Exp"], ["Concat"], axis=1),
    node("Slice", ["x", "one1", "three1", "two1"], ["Slice"]),
    node("Where", ["IsNaN", "x", "Exp"], ["Where"]),
    node("IsNaN", ["x"], ["IsNaN"]),
    node("Conv", ["x", "w", "cw"], ["Conv"], pads=[1, 1]),
    node("ReduceL2", ["x"], ["ReduceL2"], keepdims=1),
    node("ScatterND", ["x", "coordinates", "update"], ["ScatterND"]),
    node("ScatterElements", ["x", "ArgMaxK", "Exp1"], ["ScatterElements"], axis=2),
    node("Slice", ["Exp", "zero1", "one1", "two1"], ["Exp1"]),
    node("Slice", ["x", "minus1", "least1", "two1", "minus1"], ["flipped"]),
    node("QuantizeLinear", ["x", "scale", "zero"], ["Quantize"]),
]


def test_every_plain_operator_compiles(make: Make) -> None:
    order = sorted(PLAIN, key=lambda n: {"ArgMaxK": 0, "IsNaN": 0, "Exp": 0, "Exp1": 0.5}.get(n.output[0], 1))
    weights = {
        "g": f32(5), "c": f32(5), "three": np.int64(3), "two": np.float32(2), "one": np.int64(1),
        "some": np.array([4, 0, -1]), "pads": np.array([0, 1, 0, 0, 2, 1]), "times": np.array([1, 2, 3]),
        "one1": np.array([1]), "three1": np.array([3]), "two1": np.array([2]), "zero1": np.array([0]),
        "minus1": np.array([-1]), "least1": np.array([-99]), "coordinates": np.array([[0]]),
        "update": f32(1, 4, 5),
        "w": f32(2, 4, 3), "cw": f32(2),
        "scale": np.float32(0.1), "zero": np.int8(3),
    }  # fmt: skip
    kinds = {
        "ArgMax": "int64",
        "ArgMaxK": "int64",
        "i": "int64",
        "Mod": "int64",
        "Div": "int64",
        "IsNaN": "bool",
    }
    outputs = {n.output[0]: kinds.get(n.output[0], "float32") for n in order} | {"Quantize": "int8"}
    model = make(order, {"x": ("float32", ["b", 4, 5])}, weights, outputs, opset=20)
    imported = import_model(model)
    run, reference = compiled(imported), session(model.SerializeToString())
    for batch in (1, 3):
        x = f32(batch, 4, 5) * 2
        x[0, 0] = [0.5, 1.5, -2.5, 2.5, 0]
        for output, got, expected in zip(
            imported.outputs, run(x), reference.run(None, {"x": x}), strict=True
        ):
            assert got.dtype == expected.dtype, output.name
            np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5, err_msg=output.name)


def encoder(path: Path, exporter: str, opset: int) -> None:
    """A BERT of two small layers with dynamic batch and sequence."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    logging.getLogger("torch").setLevel(logging.ERROR)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40,
        max_position_embeddings=48,
    )  # fmt: skip

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = transformers.BertModel(config).eval()

        def forward(self, ids, mask):
            return self.model(input_ids=ids, attention_mask=mask)[0]

    ids = torch.randint(0, 50, (2, 9))
    axes = {0: "batch", 1: "sequence"}
    if exporter == "legacy":
        dynamic = {"dynamic_axes": {name: axes for name in ("ids", "mask", "out")}}
    else:
        auto = torch.export.Dim.DYNAMIC
        dynamic = {"dynamic_shapes": ({0: auto, 1: auto},) * 2, "external_data": False, "verbose": False}
    torch.onnx.export(
        Encoder().eval(), (ids, torch.ones_like(ids)), str(path), opset_version=opset,
        input_names=["ids", "mask"], output_names=["out"], dynamo=exporter == "dynamo", **dynamic,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("exporter", "opset"), [("legacy", 14), ("legacy", 17), ("dynamo", 18), ("dynamo", 23)]
)
def test_exported_encoder_at_every_length(exporter: str, opset: int, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    encoder(path, exporter, opset)
    imported = import_model(read_model(path))
    assert all(isinstance(n, str) for i in imported.inputs for n in i.shape)
    assert list(imported.inputs[0].limits.values()) == [48]
    run, reference = compiled(imported), session(str(path))
    for batch, length in ((1, 1), (1, 7), (3, 16), (2, 48)):
        ids = rng.integers(0, 50, (batch, length))
        mask = np.ones((batch, length), np.int64)
        mask[-1, length // 2 + 1 :] = 0
        (got,), (expected,) = run(ids, mask), reference.run(None, {"ids": ids, "mask": mask})
        np.testing.assert_allclose(got, expected, atol=1e-5)


def test_outputs_that_no_operator_computes(make: Make) -> None:
    nodes = [
        node("Identity", ["x"], ["same"]),
        node("Identity", ["w"], ["table"]),
        node("Shape", ["x"], ["shape"]),
        node("Identity", ["x"], ["again"]),
        node("Expand", ["half", "shape"], ["filled"]),
    ]
    outputs = {
        "same": "float32",
        "table": "float32",
        "shape": "int64",
        "again": "float32",
        "filled": "float32",
    }
    model = make(nodes, {"x": ("float32", ["b", 3])}, {"w": f32(5, 8), "half": np.float32(0.5)}, outputs)
    imported = import_model(model)
    x = f32(2, 3)
    got = compiled(imported)(x)
    for array, expected in zip(got, session(model.SerializeToString()).run(None, {"x": x}), strict=True):
        np.testing.assert_array_equal(array, expected)
