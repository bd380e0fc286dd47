"""Files that are damaged or hostile are refused with one line that says what and where."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from espalier.errors import ModelError
from espalier.passes.frontend import linear_weights, read_model

pytestmark = pytest.mark.unit

WEIGHT = np.random.default_rng(0).standard_normal((16, 8)).astype(np.float32)
node = helper.make_node


def value(name: str, shape: list[int | str] | None, dtype: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def weight(array: np.ndarray = WEIGHT, name: str = "W") -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(array), name)


def raw(
    dims: list[int], data: bytes = b"", dtype: int = TensorProto.FLOAT, name: str = "W"
) -> onnx.TensorProto:
    return TensorProto(name=name, dims=dims, data_type=dtype, raw_data=data)


def build(
    nodes: list[onnx.NodeProto] | None = None,
    weights: list[onnx.TensorProto] | None = None,
    inputs: list[onnx.ValueInfoProto] | None = None,
    outputs: list[onnx.ValueInfoProto] | None = None,
    opset: int = 17,
    **more: object,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes if nodes is not None else [node("MatMul", ["x", "W"], ["y"], name="dense")],
        "graph",
        inputs if inputs is not None else [value("x", ["batch", 16])],
        outputs if outputs is not None else [value("y", None)],
        initializer=weights if weights is not None else [weight()],
        **more,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 10
    return model


def relu(**more: object) -> onnx.ModelProto:
    return build([node("Relu", ["x"], ["y"], name="act")], [], **more)  # pyright: ignore[reportArgumentType]


def changed(change: Callable[[onnx.ModelProto], object]) -> onnx.ModelProto:
    model = build()
    change(model)
    return model


def external(**entry: object) -> onnx.ModelProto:
    tensor = TensorProto(name="W", dims=[16, 8], data_type=TensorProto.FLOAT)
    tensor.data_location = TensorProto.EXTERNAL
    for key, text in entry.items():
        tensor.external_data.add(key=key, value=str(text))
    return build(weights=[tensor])


def nested(depth: int) -> onnx.ModelProto:
    graph = helper.make_graph([node("Relu", ["x"], ["t"])], "leaf", [], [value("t", None)])
    for i in range(depth):
        inner = node("If", ["c"], [f"t{i}"], then_branch=graph, else_branch=graph)
        graph = helper.make_graph([inner], f"level{i}", [], [value(f"t{i}", None)])
    nodes = [node("If", ["c"], ["y"], then_branch=graph, else_branch=graph)]
    return build(nodes, [], [value("x", [4]), value("c", [], TensorProto.BOOL)])


def looping(op: str) -> onnx.ModelProto:
    body = helper.make_graph(
        [node("Identity", ["c"], ["d"]), node("Relu", ["v"], ["w"])],
        "body",
        [value("i", [], TensorProto.INT64), value("c", [], TensorProto.BOOL), value("v", [4])],
        [value("d", [], TensorProto.BOOL), value("w", [4])],
    )
    weights = [weight(np.array(3), "n"), weight(np.array(True), "go")]
    return build([node(op, ["n", "go", "x"], ["y"], name="loop", body=body)], weights, [value("x", [4])])


def recursive() -> onnx.ModelProto:
    model = build([node("F", ["x"], ["y"], domain="own")], [])
    body = [node("F", ["a"], ["b"], domain="own")]
    model.functions.append(
        helper.make_function("own", "F", ["a"], ["b"], body, [helper.make_opsetid("own", 1)])
    )
    model.opset_import.append(helper.make_opsetid("own", 1))
    return model


def exploding() -> onnx.ModelProto:
    model = build([node("F30", ["x"], ["y"], domain="own")], [])
    opsets = [helper.make_opsetid("own", 1), helper.make_opsetid("", 17)]
    for i in range(31):
        call = ("Relu", "") if i == 0 else (f"F{i - 1}", "own")
        body = [node(call[0], [a], [b], domain=call[1]) for a, b in (("a", "t"), ("t", "b"))]
        model.functions.append(helper.make_function("own", f"F{i}", ["a"], ["b"], body, opsets))
    model.opset_import.append(helper.make_opsetid("own", 1))
    return model


def sparse(values: np.ndarray, indices: np.ndarray, dims: list[int]) -> onnx.ModelProto:
    item = helper.make_sparse_tensor(weight(values), weight(indices, "i"), dims)
    return build(weights=[], sparse_initializer=[item])


NAN = np.where(np.arange(128).reshape(16, 8) == 5, np.nan, WEIGHT).astype(np.float32)
INF = np.where(np.isnan(NAN), np.inf, NAN).astype(np.float32)
ONE = np.ones(1, np.float32)

# name: (how the model is made, words of the message)
BAD: dict[str, tuple[Callable[[], onnx.ModelProto], tuple[str, ...]]] = {
    "more dims than data": (lambda: build(weights=[raw([16, 80], WEIGHT.tobytes())]), ("'W'", "5120")),
    "less dims than data": (lambda: build(weights=[raw([16, 2], WEIGHT.tobytes())]), ("'W'", "128")),
    "negative dims": (lambda: build(weights=[raw([-1, 8], WEIGHT.tobytes())]), ("'W'", "negative")),
    "huge dims": (lambda: build(weights=[raw([16, 1 << 40])]), ("'W'", "elements")),
    "many dims": (lambda: build(weights=[raw([1] * 99, b"1234")]), ("'W'", "99 dimensions")),
    "wrong dtype": (lambda: build(weights=[weight(WEIGHT.astype(np.float64))]), ("checker",)),
    "no such dtype": (lambda: build(weights=[raw([16, 8], WEIGHT.tobytes(), dtype=77)]), ("'W'", "77")),
    "float8": (
        lambda: build(weights=[raw([16, 8], bytes(128), TensorProto.FLOAT8E4M3FN)]),
        ("float8e4m3fn",),
    ),
    "text weight": (
        lambda: build(weights=[helper.make_tensor("W", TensorProto.STRING, [1], [b"a"])]),
        ("'W'", "string"),
    ),
    "nan weight": (lambda: build(weights=[weight(NAN)]), ("'W'", "NaN")),
    "infinite weight": (lambda: build(weights=[weight(INF)]), ("'W'", "infinity")),
    "two weights of a name": (
        lambda: build(weights=[weight(), weight(WEIGHT * 2)]),
        ("two initializers", "'W'"),
    ),
    "weight missing": (lambda: build(weights=[]), ("'dense'", "'W'")),
    "matmul mismatch": (lambda: build(weights=[weight(WEIGHT[:10])]), ("checker",)),
    "circle": (
        lambda: build(
            [node("Add", ["x", "b"], ["a"]), node("Relu", ["a"], ["b"]), node("Relu", ["b"], ["y"])], []
        ),
        ("reads 'b'",),
    ),
    "unsorted": (
        lambda: build([node("Relu", ["a"], ["y"]), node("MatMul", ["x", "W"], ["a"])]),
        ("reads 'a'",),
    ),
    "defined twice": (
        lambda: build(
            [node("Relu", ["x"], ["a"]), node("Neg", ["x"], ["a"]), node("Relu", ["a"], ["y"])], []
        ),
        ("'a'", "second time"),
    ),
    "two inputs of a name": (lambda: relu(inputs=[value("x", [4]), value("x", [4])]), ("two inputs", "'x'")),
    "unknown operator": (lambda: build([node("FooBar", ["x"], ["y"], name="foo")], []), ("'foo'", "FooBar")),
    "foreign domain": (
        lambda: build([node("Relu", ["x"], ["y"], name="foo", domain="my.dom")], []),
        ("'foo'", "my.dom:Relu"),
    ),
    "unsupported contrib": (
        lambda: build([node("BeamSearch", ["x"], ["y"], domain="com.microsoft")], []),
        ("com.microsoft:BeamSearch",),
    ),
    "operator newer than opset": (
        lambda: build([node("Gelu", ["x"], ["y"])], [], opset=17),
        ("Gelu", "opset 20"),
    ),
    "loop": (lambda: looping("Loop"), ("'loop'", "Loop")),
    "scan": (lambda: looping("Scan"), ("'loop'", "Scan")),
    "opset 99": (lambda: build(opset=99), ("opset 99",)),
    "opset 1": (lambda: build(opset=1), ("opset 1",)),
    "opset 12": (lambda: build(opset=12), ("opset 12", "13")),
    "ir 99": (lambda: changed(lambda m: setattr(m, "ir_version", 99)), ("IR version 99",)),
    "two opsets of a domain": (
        lambda: changed(lambda m: m.opset_import.append(helper.make_opsetid("ai.onnx", 18))),
        ("two opset",),
    ),
    "no standard opset": (lambda: changed(lambda m: setattr(m.opset_import[0], "domain", "own")), ("opset",)),
    "no inputs": (lambda: build([node("Relu", ["W"], ["y"])], inputs=[]), ("no inputs",)),
    "no outputs": (lambda: build(outputs=[]), ("no outputs",)),
    "output of nothing": (lambda: build(outputs=[value("z", None)]), ("'z'",)),
    "no rank": (lambda: relu(inputs=[value("x", None)]), ("'x'", "rank")),
    "extent 0": (lambda: relu(inputs=[value("x", [0, 16])]), ("'x'", "extent of 0")),
    "extent -3": (lambda: relu(inputs=[value("x", [-3, 16])]), ("'x'", "extent of -3")),
    "huge input": (lambda: relu(inputs=[value("x", [1 << 40, 1 << 20])]), ("'x'", "elements")),
    "text input": (
        lambda: relu(inputs=[value("x", [4], TensorProto.STRING)]),
        ("'x'", "no tensor of numbers"),
    ),
    "sequence input": (
        lambda: relu(inputs=[helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, [4])]),
        ("'x'", "no tensor"),
    ),
    "too many inputs of a node": (
        lambda: build(
            [node("Sum", [f"x{i}" for i in range(3000)], ["y"], name="sum")],
            [weight(ONE, f"x{i}") for i in range(1, 3000)],
            [value("x0", [4])],
        ),
        ("'sum'", "3000 inputs"),
    ),
    "too many inputs": (
        lambda: relu(inputs=[value(n, [4]) for n in ("x", *map(str, range(300)))]),
        ("301 inputs",),
    ),
    "too many nodes": (
        lambda: build(
            [node("Relu", ["x" if i == 0 else f"a{i}"], [f"a{i + 1}"]) for i in range(20001)],
            [],
            outputs=[value("a20001", None)],
        ),
        ("20000 nodes",),
    ),
    "deep graphs": (lambda: nested(7), ("deep",)),
    "function calls itself": (recursive, ("'F'", "calls itself")),
    "functions explode": (exploding, ("20000 nodes",)),
    "text attribute": (
        lambda: build([node("Constant", [], ["c"], value_string="a"), node("Relu", ["x"], ["y"])], []),
        ("holds text",),
    ),
    "bad axis": (lambda: build([node("Softmax", ["x"], ["y"], axis=7)], []), ("checker", "axis")),
    "bad permutation": (lambda: build([node("Transpose", ["x"], ["y"], perm=[0, 0])], []), ("checker",)),
    "sparse index outside": (lambda: sparse(ONE, np.array([128]), [16, 8]), ("'W'", "outside")),
    "sparse coordinate outside": (lambda: sparse(ONE, np.array([[0, 9]]), [16, 8]), ("'W'", "outside")),
    "sparse index twice": (
        lambda: sparse(np.ones(2, np.float32), np.array([3, 3]), [16, 8]),
        ("'W'", "twice"),
    ),
    "sparse counts": (lambda: sparse(np.ones(2, np.float32), np.array([3]), [16, 8]), ("'W'", "indices")),
    "sparse too large": (lambda: sparse(ONE, np.array([3]), [1 << 15, 1 << 15]), ("'W'", "too large")),
    "external escape": (lambda: external(location="../../x.bin", length=512), ("'W'", "leaves")),
    "external backslash escape": (lambda: external(location="..\\x.bin", length=512), ("'W'", "leaves")),
    "external absolute": (lambda: external(location="/etc/passwd", length=512), ("'W'", "leaves")),
    "external drive": (lambda: external(location="C:\\x.bin", length=512), ("'W'", "leaves")),
    "external missing": (lambda: external(location="none.bin", length=512), ("'W'", "no file")),
    "external without place": (lambda: external(length=512), ("'W'", "leaves")),
    "external short": (lambda: external(location="short.bin"), ("'W'", "bytes 0 to 512")),
    "external offset": (lambda: external(location="long.bin", offset=1 << 40), ("'W'", "bytes")),
    "external negative": (lambda: external(location="long.bin", offset=-4), ("'W'", "bytes -4")),
    "external length": (lambda: external(location="long.bin", length=100), ("'W'", "100 bytes")),
    "external no number": (lambda: external(location="long.bin", offset="x"), ("'W'", "no number")),
    "external link": (lambda: external(location="link.bin", length=512), ("'W'", "link")),
    "external folder": (lambda: external(location="sub", length=512), ("'W'", "no file")),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_model_is_refused(case: str, tmp_path: Path) -> None:
    make, words = BAD[case]
    (tmp_path / "short.bin").write_bytes(bytes(10))
    (tmp_path / "long.bin").write_bytes(bytes(4096))
    (tmp_path / "sub").mkdir()
    os.symlink("/etc/passwd", tmp_path / "link.bin")
    path = tmp_path / "model.onnx"
    path.write_bytes(make().SerializeToString())
    with pytest.raises(ModelError) as caught:
        read_model(path)
    for word in words:
        assert word in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.hint
    assert len(caught.value.message) < 600


FOLDING = {
    "huge constant": (
        [node("ConstantOfShape", ["s"], ["c"], name="fill"), node("Add", ["x", "c"], ["y"])],
        [weight(np.array([1 << 40]), "s")],
    ),
    "huge expand": (
        [node("Expand", ["k", "s"], ["c"], name="fill"), node("Add", ["x", "c"], ["y"])],
        [weight(np.array([1 << 20, 1 << 14, 16]), "s"), weight(ONE, "k")],
    ),
    "huge tile": (
        [node("Tile", ["x", "s"], ["y"], name="fill")],
        [weight(np.array([1, 1 << 40]), "s")],
    ),
    "huge range": (
        [node("Range", ["a", "s", "b"], ["c"], name="fill"), node("Relu", ["x"], ["y"])],
        [weight(np.array(0), "a"), weight(np.array(1 << 40), "s"), weight(np.array(1), "b")],
    ),
    "empty slice": (
        [node("Slice", ["x", "a", "b", "c"], ["y"], name="fill")],
        [weight(np.array([5]), "a"), weight(np.array([5]), "b"), weight(np.array([1]), "c")],
    ),
    "shape from data": (
        [node("Cast", ["x"], ["i"], to=TensorProto.INT64), node("Reshape", ["i", "i"], ["y"], name="fill")],
        [],
    ),
    "condition from data": (
        [
            node("ReduceMax", ["x"], ["m"], keepdims=0),
            node("Cast", ["m"], ["c"], to=TensorProto.BOOL),
            node(
                "If",
                ["c"],
                ["y"],
                name="fill",
                then_branch=helper.make_graph([node("Relu", ["x"], ["t"])], "t", [], [value("t", None)]),
                else_branch=helper.make_graph([node("Neg", ["x"], ["e"])], "e", [], [value("e", None)]),
            ),
        ],
        [],
    ),
}


@pytest.mark.parametrize("case", FOLDING)
def test_refusal_while_converting_names_the_node(case: str, tmp_path: Path) -> None:
    nodes, weights = FOLDING[case]
    rank = 1 if case == "shape from data" else 2
    outputs = [value("y", None, TensorProto.INT64 if rank == 1 else TensorProto.FLOAT)]
    path = tmp_path / "model.onnx"
    path.write_bytes(build(nodes, weights, [value("x", ["n", 1][-rank:])], outputs).SerializeToString())
    with pytest.raises(ModelError, match="fill") as caught:
        linear_weights(read_model(path))
    assert caught.value.hint


def test_growing_constants_are_refused() -> None:
    nodes = [node("Concat", ["c0"] * 2, ["c1"], axis=0)]
    nodes += [node("Concat", [f"c{i}"] * 2, [f"c{i + 1}"], axis=0) for i in range(1, 40)]
    nodes += [node("ReduceSum", ["c40"], ["s"], keepdims=0), node("Add", ["x", "s"], ["y"])]
    with pytest.raises(ModelError, match="elements"):
        linear_weights(build(nodes, [weight(np.ones(1024, np.float32), "c0")]))


def test_growing_sizes_are_refused() -> None:
    nodes = [node("Size", ["x"], ["s0"])]
    nodes += [node("Mul", [f"s{i}", f"s{i}"], [f"s{i + 1}"], name=f"square{i}") for i in range(40)]
    nodes += [node("Cast", ["s40"], ["f"], to=TensorProto.FLOAT), node("Add", ["x", "f"], ["y"])]
    with pytest.raises(ModelError, match=r"square\d+: .*size"):
        linear_weights(build(nodes, []))


def test_paths_that_are_no_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        read_model(tmp_path / "none.onnx")
    with pytest.raises(ModelError, match="is a folder"):
        read_model(tmp_path)
    with pytest.raises(ModelError, match="not a regular file"):
        read_model("/dev/null")
    empty = tmp_path / "empty.onnx"
    empty.touch()
    with pytest.raises(ModelError, match="is empty"):
        read_model(empty)


def test_bytes_that_are_no_model(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    whole = build().SerializeToString()
    random = np.random.default_rng(0).bytes(5000)
    for data in (random, whole[: len(whole) // 2], whole[:-1], b"{}", b"\x08\x0a", whole + b"\xff"):
        path.write_bytes(data)
        with pytest.raises(ModelError, match="no ONNX model"):
            read_model(path)


@pytest.mark.parametrize("seed", range(4))
def test_bytes_flipped_anywhere_never_crash(seed: int, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    whole = (build() if seed % 2 else exploding()).SerializeToString()
    rng = np.random.default_rng(seed)
    for _ in range(60):
        data = bytearray(whole)
        for at in rng.integers(0, len(data), rng.integers(1, 4)):
            data[at] = rng.integers(0, 256)
        path.write_bytes(bytes(data))
        try:
            linear_weights(read_model(path))
        except ModelError as error:
            assert error.hint


def test_external_data_and_sparse_weights_are_read(tmp_path: Path) -> None:
    pruned = WEIGHT * (WEIGHT > 0)
    flat = np.flatnonzero(pruned)
    coordinates = np.argwhere(pruned)
    models = [
        sparse(pruned.reshape(-1)[flat], flat, [16, 8]),
        sparse(pruned[pruned != 0], coordinates, [16, 8]),
    ]
    path = tmp_path / "model.onnx"
    for model in models:
        path.write_bytes(model.SerializeToString())
        (found,) = linear_weights(read_model(path))
        np.testing.assert_array_equal(found.matrix, pruned.T)
        assert found.name == "W"
    onnx.save(build(), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    (found,) = linear_weights(read_model(path))
    np.testing.assert_array_equal(found.matrix, WEIGHT.T)


def test_a_mask_may_hold_infinity(tmp_path: Path) -> None:
    mask = np.triu(np.full((16, 16), -np.inf, np.float32), 1)
    model = build([node("Add", ["x", "m"], ["y"])], [weight(mask, "m")], [value("x", [16, 16])])
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    assert linear_weights(read_model(path)) == []
