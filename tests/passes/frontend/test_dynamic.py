"""Sizes and masks that exporters compute at run time stay exact formulas of the dimensions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from espalier.errors import ModelError, UsageError
from espalier.passes.frontend.convert.graph import convert
from espalier.passes.frontend.values import Plain

pytestmark = pytest.mark.unit

node = helper.make_node
rng = np.random.default_rng(0)
Make = Callable[..., onnx.ModelProto]
Agree = Callable[..., Plain]
INPUTS = {"x": ("float32", ["batch", "sequence", 12])}


def f32(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def i64(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def names(plain: Plain) -> list[str]:
    return [tensor.op.name for tensor in plain.ops if tensor.op]


def test_head_split_of_the_legacy_exporter(make: Make, agree: Agree) -> None:
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "zero"], ["b"]),
        node("Unsqueeze", ["b", "axis"], ["b1"]),
        node("Concat", ["b1", "rest"], ["to"], axis=0),
        node("Reshape", ["x", "to"], ["h"]),
        node("Transpose", ["h"], ["t"], perm=[0, 2, 1, 3]),
        node("Transpose", ["t"], ["u"], perm=[0, 2, 1, 3]),
        node("Shape", ["u"], ["s2"], start=0, end=2),
        node("Concat", ["s2", "last"], ["back"], axis=0),
        node("Reshape", ["u", "back"], ["z"]),
        node("Relu", ["z"], ["y"]),
    ]
    weights = {"zero": i64(0)[0], "axis": i64(0), "rest": i64(-1, 3, 4), "last": i64(-1)}
    plain = agree(make(nodes, INPUTS, weights), {"x": f32(2, 5, 12)}, {"x": f32(1, 1, 12)})
    # both transposes and both reshapes cancel
    assert names(plain) == ["relu"]
    assert [str(n) for n in plain.outputs[0][1].shape] == ["batch", "sequence", "12"]


def test_causal_mask_is_one_comparison(make: Make, agree: Agree) -> None:
    nodes = [
        node("Shape", ["x"], ["n"], start=1, end=2),
        node("Squeeze", ["n"], ["s"]),
        node("Range", ["zero", "s", "one"], ["r"]),
        node("Unsqueeze", ["r", "last"], ["row"]),
        node("LessOrEqual", ["r", "row"], ["seen"]),
        node("Concat", ["n", "n"], ["square"], axis=0),
        node("Expand", ["seen", "square"], ["full"]),
        node("Where", ["full", "open", "closed"], ["y"]),
    ]
    weights = {"zero": i64(0)[0], "one": i64(1)[0], "last": i64(1)}
    weights |= {"open": np.float32(0), "closed": np.float32(-np.inf)}
    plain = agree(make(nodes, INPUTS, weights), {"x": f32(2, 5, 12)}, {"x": f32(2, 1, 12)})
    assert names(plain) == ["arange", "reshape", "less_equal", "where"]


@pytest.mark.parametrize("opset", [17, 18])
def test_mask_indexing_is_a_reshape(opset: int, make: Make, agree: Agree) -> None:
    """transformers 5 indexes the mask by ranges of batch and keys: GatherND in dynamo, Gather in legacy."""
    nodes = [
        node("Cast", ["m"], ["t"], to=TensorProto.BOOL),
        node("Shape", ["x"], ["b"], start=0, end=1),
        node("Shape", ["x"], ["s"], start=1, end=2),
        node("Squeeze", ["b"], ["b0"]),
        node("Squeeze", ["s"], ["s0"]),
        node("Range", ["zero", "b0", "one"], ["rb"]),
        node("Range", ["zero", "s0", "one"], ["rs"]),
        node("Unsqueeze", ["rb", "tail"], ["ib"]),
    ]
    if opset == 18:
        nodes += [
            node("Unsqueeze", ["rs", "lead"], ["is"]),
            node("Max", ["ib", "is"], ["both"]),
            node("Shape", ["both"], ["to"]),
            node("Expand", ["ib", "to"], ["eb"]),
            node("Expand", ["is", "to"], ["es"]),
            node("Unsqueeze", ["eb", "last"], ["cb"]),
            node("Unsqueeze", ["es", "last"], ["cs"]),
            node("Concat", ["cb", "cs"], ["where"], axis=-1),
            node("GatherND", ["t", "where"], ["y"]),
        ]
    else:
        nodes += [
            node("Flatten", ["t"], ["flat"], axis=2),
            node("Mul", ["ib", "s"], ["scaled"]),
            node("Add", ["scaled", "rs"], ["where"]),
            node("Gather", ["flat", "where"], ["g"], axis=0),
            node("Squeeze", ["g", "last"], ["y"]),
        ]
    weights = {
        "zero": i64(0)[0],
        "one": i64(1)[0],
        "tail": i64(1, 2, 3),
        "lead": i64(0, 1, 2),
        "last": i64(-1),
    }
    inputs = INPUTS | {"m": ("int64", ["other" if opset == 18 else "batch", "sequence"])}
    model = make(nodes, inputs, weights, {"y": "bool"}, opset=opset)
    plain = agree(model, {"x": f32(2, 5, 12), "m": rng.integers(0, 2, (2, 5))})
    assert names(plain) == ["cast", "reshape"]
    # the mask's own batch became the batch of the ids
    assert [str(n) for n in plain.inputs[1].shape] == ["batch", "sequence"]


def test_position_table_is_sliced_and_bounds_the_sequence(make: Make, agree: Agree) -> None:
    nodes = [
        node("Shape", ["x"], ["s"], start=1, end=2),
        node("Slice", ["ids", "zero", "s", "axis"], ["p"]),
        node("Gather", ["table", "p"], ["e"]),
        node("Add", ["x", "e"], ["y"]),
    ]
    weights = {"ids": np.arange(16)[None], "zero": i64(0), "axis": i64(1), "table": f32(16, 12)}
    plain = agree(make(nodes, INPUTS, weights), {"x": f32(2, 5, 12)}, {"x": f32(1, 16, 12)})
    assert names(plain) == ["slice", "reshape", "add"]
    assert plain.limits == {"sequence": 16}


def test_positions_counted_from_the_mask_bound_the_sequence(make: Make, agree: Agree) -> None:
    """RoBERTa: position = pad + (running count of tokens that are no padding)."""
    nodes = [
        node("Equal", ["ids", "pad"], ["is"]),
        node("Not", ["is"], ["token"]),
        node("Cast", ["token"], ["one"], to=TensorProto.INT32),
        node("CumSum", ["one", "axis"], ["count"]),
        node("Mul", ["count", "one"], ["kept"]),
        node("Cast", ["kept"], ["wide"], to=TensorProto.INT64),
        node("Add", ["wide", "pad"], ["place"]),
        node("Gather", ["table", "place"], ["y"]),
    ]
    weights = {"pad": i64(1)[0], "axis": i64(1)[0], "table": f32(16, 4)}
    model = make(nodes, {"ids": ("int64", ["b", "s"])}, weights)
    plain = agree(model, {"ids": rng.integers(0, 5, (2, 14))})
    assert plain.limits == {"s": 14}


def test_sizes_reach_data(make: Make, agree: Agree) -> None:
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Cast", ["s"], ["f"], to=TensorProto.FLOAT),
        node("Gather", ["f", "axis"], ["n"]),
        node("Sqrt", ["n"], ["r"]),
        node("Div", ["x", "r"], ["y"]),
    ]
    agree(make(nodes, INPUTS, {"axis": i64(1)[0]}), {"x": f32(2, 5, 12)}, {"x": f32(3, 1, 12)})


def test_integer_arithmetic_on_positions(make: Make, agree: Agree) -> None:
    """Relative positions as T5 has them, and everything a formula can hold."""
    nodes = [
        node("Shape", ["x"], ["n"], start=1, end=2),
        node("Squeeze", ["n"], ["s"]),
        node("Range", ["zero", "s", "one"], ["r"]),
        node("Unsqueeze", ["r", "last"], ["row"]),
        node("Sub", ["r", "row"], ["gap"]),
        node("Abs", ["gap"], ["far"]),
        node("Min", ["far", "four"], ["near"]),
        node("Mod", ["r", "three"], ["m"]),
        node("Div", ["r", "three"], ["d"]),
        node("Equal", ["m", "d"], ["e"]),
        node("Cast", ["e"], ["ei"], to=TensorProto.INT64),
        node("Max", ["near", "ei", "m"], ["k"]),
        node("Add", ["k", "s"], ["y"]),
    ]
    weights = {"zero": i64(0)[0], "one": i64(1)[0], "last": i64(1), "four": i64(4)[0], "three": i64(3)[0]}
    agree(make(nodes, INPUTS, weights, {"y": "int64"}), {"x": f32(1, 9, 12)}, {"x": f32(1, 1, 12)})


def test_float_range_over_a_dimension(make: Make, agree: Agree) -> None:
    nodes = [
        node("Shape", ["x"], ["n"], start=1, end=2),
        node("Cast", ["n"], ["f"], to=TensorProto.FLOAT),
        node("Squeeze", ["f"], ["s"]),
        node("Range", ["zero", "s", "one"], ["r"]),
        node("Mul", ["r", "half"], ["y"]),
    ]
    weights = {"zero": np.float32(0), "one": np.float32(1), "half": np.float32(0.5)}
    agree(make(nodes, INPUTS, weights), {"x": f32(2, 7, 12)}, {"x": f32(2, 1, 12)})


def test_constant_of_a_symbolic_shape_stays_small(make: Make, agree: Agree) -> None:
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("ConstantOfShape", ["s"], ["c"], value=helper.make_tensor("v", TensorProto.FLOAT, [1], [2.0])),
        node("Mul", ["x", "c"], ["y"]),
    ]
    assert names(agree(make(nodes, INPUTS), {"x": f32(2, 5, 12)})) == ["multiply"]
    plain = agree(make([*nodes[:2], node("Identity", ["c"], ["y"])], INPUTS), {"x": f32(2, 5, 12)})
    assert names(plain) == ["broadcast_to"]


def test_truncation_and_halves_of_a_dimension(make: Make, agree: Agree) -> None:
    nodes = [
        node("Slice", ["x", "zero", "three", "axis"], ["a"]),
        node("Shape", ["x"], ["n"], start=1, end=2),
        node("Div", ["n", "two"], ["h"]),
        node("Slice", ["x", "h", "n", "axis"], ["b"]),
        node("ReduceSum", ["a"], ["p"], keepdims=0),
        node("ReduceSum", ["b"], ["q"], keepdims=0),
        node("Add", ["p", "q"], ["y"]),
    ]
    weights = {"zero": i64(0), "three": i64(3), "axis": i64(1), "two": i64(2)}
    agree(make(nodes, INPUTS, weights), *({"x": f32(2, n, 12)} for n in (1, 2, 3, 4, 7)), atol=1e-4)


def test_dimensions_that_must_be_equal_become_one(make: Make, agree: Agree) -> None:
    inputs = {"a": ("float32", ["m", "k"]), "b": ("float32", ["l", "n"]), "c": ("float32", ["q", "n"])}
    nodes = [node("MatMul", ["a", "b"], ["ab"]), node("Add", ["ab", "c"], ["y"])]
    plain = agree(make(nodes, inputs), {"a": f32(2, 3), "b": f32(3, 4), "c": f32(2, 4)})
    assert [[str(n) for n in t.shape] for t in plain.inputs] == [["m", "k"], ["k", "n"], ["m", "n"]]


def test_a_baked_length_fixes_the_dimension(make: Make) -> None:
    nodes = [node("Reshape", ["x", "to"], ["y"])]
    model = make(nodes, {"x": ("float32", ["b", "s", 4])}, {"to": i64(0, 8, 4)})
    assert [str(n) for n in convert(model).inputs[0].shape] == ["b", "8", "4"]


def test_unnamed_dimensions_have_names_of_their_own(make: Make, agree: Agree) -> None:
    model = make([node("Add", ["a", "b"], ["y"])], {"a": ("float32", ["", ""]), "b": ("float32", ["", ""])})
    plain = agree(model, {"a": f32(2, 3), "b": f32(2, 3)})
    assert [[str(n) for n in t.shape] for t in plain.inputs] == [["a_0", "a_1"], ["a_0", "a_1"]]


def test_shapes_fix_dimensions(make: Make) -> None:
    nodes = [node("Relu", ["x"], ["y"])]
    plain = convert(make(nodes, INPUTS), {"x": [2, 7, 12]})
    assert plain.outputs[0][1].shape == (2, 7, 12)


CONTRADICTIONS = {
    "no such input": ({"z": [1]}, "'z'"),
    "wrong rank": ({"x": [1, 2]}, "3 dimensions"),
    "fixed elsewhere": ({"x": [1, 2, 13]}, "12"),
    "zero": ({"x": [0, 2, 12]}, "extent 0"),
    "unequal names": ({"x": [1, 2, 12], "z": [3]}, "'batch'"),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_shapes_that_contradict_the_model(case: str, make: Make) -> None:
    shapes, word = CONTRADICTIONS[case]
    inputs = INPUTS | ({"z": ("float32", ["batch"])} if case == "unequal names" else {})
    with pytest.raises(UsageError, match=word) as caught:
        convert(make([node("Relu", ["x"], ["y"])], inputs), shapes)
    assert caught.value.hint


def test_a_shape_that_the_graph_refuses(make: Make) -> None:
    model = make(
        [node("Reshape", ["x", "to"], ["y"])], {"x": ("float32", ["b", "s", 4])}, {"to": i64(0, 8, 4)}
    )
    with pytest.raises(UsageError, match="--input-shapes"):
        convert(model, {"x": [1, 9, 4]})


def test_impossible_reshape_names_the_node(make: Make) -> None:
    model = make([node("Reshape", ["x", "to"], ["y"], name="view")], INPUTS, {"to": i64(7, -1)})
    with pytest.raises(ModelError, match="view"):
        convert(model)
