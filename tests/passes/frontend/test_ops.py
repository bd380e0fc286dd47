"""Every converted operator against ONNX Runtime, on small graphs with dynamic dimensions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from espalier.errors import ModelError
from espalier.passes.frontend.convert.graph import convert
from espalier.passes.frontend.values import Plain

pytestmark = pytest.mark.unit

node = helper.make_node
rng = np.random.default_rng(0)
Make = Callable[..., onnx.ModelProto]
Agree = Callable[..., Plain]


def f32(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def i64(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


NEWER = {"Gelu": 20, "Mish": 18}
SHAPED = ["Identity", "Flatten", "Transpose", "Softmax", "LogSoftmax", "LpNormalization"]
REDUCING = ["ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceL2", "ReduceL1"]
REDUCING += ["ReduceSumSquare"]
ACTIVATIONS = ["Relu", "Tanh", "Sigmoid", "LeakyRelu", "HardSigmoid", "Elu", "Softplus", "Gelu"]
ACTIVATIONS += ["Selu", "HardSwish", "Mish"]
POINTWISE = [
    "Abs",
    "Neg",
    "Exp",
    "Log",
    "Sqrt",
    "Erf",
    "Sin",
    "Cos",
    "Floor",
    "Ceil",
    "Round",
    "Sign",
    "Reciprocal",
]
FLOAT = [*SHAPED, *REDUCING, *ACTIVATIONS, *POINTWISE]


@pytest.mark.parametrize("op", FLOAT)
def test_float_operator(op: str, make: Make, agree: Agree) -> None:
    model = make([node(op, ["x"], ["y"])], {"x": ("float32", ["b", 5])}, opset=NEWER.get(op, 16))
    x = f32(3, 5) * 3
    x[0, :4] = [0.5, 1.5, -2.5, 0]
    feeds = np.abs(x) + 0.1 if op in ("Sqrt", "Log") else x
    agree(model, {"x": feeds}, {"x": feeds[:1]})


BINARY = [
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Max",
    "Min",
    "Equal",
    "Less",
    "LessOrEqual",
    "Greater",
    "GreaterOrEqual",
]


@pytest.mark.parametrize("op", BINARY)
@pytest.mark.parametrize("dtype", ["float32", "int64"])
def test_binary_operator_broadcasts(op: str, dtype: str, make: Make, agree: Agree) -> None:
    result = "bool" if op in BINARY[6:] else dtype
    inputs = {"a": (dtype, ["b", 1, 4]), "c": (dtype, [3, 4])}
    model = make([node(op, ["a", "c"], ["y"])], inputs, outputs={"y": result})
    a, c = rng.integers(-9, 9, (2, 1, 4)).astype(dtype), rng.integers(1, 9, (3, 4)).astype(dtype)
    agree(model, {"a": a, "c": c})


@pytest.mark.parametrize("op", ["And", "Or", "Xor"])
def test_logic(op: str, make: Make, agree: Agree) -> None:
    model = make([node(op, ["a", "c"], ["y"])], {n: ("bool", ["b", 4]) for n in "ac"}, outputs={"y": "bool"})
    agree(model, {"a": rng.random((3, 4)) > 0.5, "c": rng.random((3, 4)) > 0.5})


def test_powers_and_remainders(make: Make, agree: Agree) -> None:
    nodes = [node("Pow", ["x", "two"], ["p"]), node("Mod", ["p", "m"], ["y"])]
    model = make(nodes, {"x": ("int64", ["b"])}, {"two": i64(2)[0], "m": i64(7)[0]}, {"y": "int64"})
    agree(model, {"x": i64(1, -5, 9)})
    model = make([node("Pow", ["x", "e"], ["y"])], {"x": ("float32", ["b"])}, {"e": np.float32(3)})
    agree(model, {"x": f32(4)})


def test_where_clip_cast_isnan(make: Make, agree: Agree) -> None:
    nodes = [
        node("Clip", ["x", "lo", "hi"], ["c"]),
        node("IsNaN", ["x"], ["n"]),
        node("Where", ["n", "lo", "c"], ["w"]),
        node("Not", ["n"], ["m"]),
        node("Cast", ["m"], ["k"], to=TensorProto.FLOAT),
        node("Sum", ["w", "k", "w"], ["s"]),
        node("Mean", ["s", "w"], ["y"]),
    ]
    model = make(nodes, {"x": ("float32", ["b"])}, {"lo": np.float32(-1), "hi": np.float32(1)})
    x = f32(6) * 3
    x[2] = np.nan
    agree(model, {"x": x})


@pytest.mark.parametrize("opset", [13, 18])
def test_reductions_take_axes_both_ways(opset: int, make: Make, agree: Agree) -> None:
    for keep in (0, 1):
        attrs = {"keepdims": keep}
        first = node("ReduceSum", ["x", "axes"], ["y"], **attrs)
        agree(
            make([first], {"x": ("float32", ["b", 3, 4])}, {"axes": i64(1, -1)}, opset=opset),
            {"x": f32(2, 3, 4)},
        )
        if opset == 13:
            mean = node("ReduceMean", ["x"], ["y"], axes=[0], **attrs)
        else:
            mean = node("ReduceMean", ["x", "axes"], ["y"], **attrs)
        weights = {"axes": i64(0)} if opset != 13 else {}
        agree(make([mean], {"x": ("float32", [2, 3, 4])}, weights, opset=opset), {"x": f32(2, 3, 4)})
    none = node("ReduceSum", ["x", "axes"], ["y"], noop_with_empty_axes=1)
    agree(make([none], {"x": ("float32", ["b"])}, {"axes": i64()}, opset=opset), {"x": f32(3)})


def test_argmax_cumsum_onehot(make: Make, agree: Agree) -> None:
    nodes = [
        node("ArgMax", ["x"], ["a"], axis=-1, keepdims=0),
        node("CumSum", ["a", "zero"], ["c"]),
        node("OneHot", ["c", "depth", "values"], ["y"], axis=-1),
    ]
    weights = {"zero": i64(0)[0], "depth": i64(9)[0], "values": np.array([-1, 2], np.float32)}
    agree(make(nodes, {"x": ("float32", ["b", 4])}, weights), {"x": f32(5, 4)}, {"x": f32(1, 4)})


def test_layer_norms(make: Make, agree: Agree) -> None:
    inputs, weights = {"x": ("float32", ["b", 3, 8])}, {"g": f32(8), "b": f32(8), "g2": f32(3, 8)}
    plain = agree(
        make([node("LayerNormalization", ["x", "g", "b"], ["y"], epsilon=1e-12)], inputs, weights),
        {"x": f32(2, 3, 8)},
    )
    assert [tensor.op.name for tensor in plain.ops if tensor.op] == ["layer_norm"]
    agree(make([node("LayerNormalization", ["x", "g"], ["y"])], inputs, weights), {"x": f32(2, 3, 8)})
    agree(
        make([node("LayerNormalization", ["x", "g2"], ["y"], axis=1)], inputs, weights), {"x": f32(2, 3, 8)}
    )
    model = make([node("RMSNormalization", ["x", "g"], ["y"])], inputs, weights, opset=23)
    agree(model, {"x": f32(2, 3, 8)})


def test_batch_norm(make: Make, agree: Agree) -> None:
    weights = {"s": f32(4), "b": f32(4), "m": f32(4), "v": np.abs(f32(4)) + 0.5}
    model = make(
        [node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y"])],
        {"x": ("float32", ["b", 4, 6])},
        weights,
    )
    agree(model, {"x": f32(2, 4, 6)}, atol=1e-4)


@pytest.mark.parametrize("a", [["b", 5, 6], ["b", "s", 5, 6], [5, 6], [6]])
@pytest.mark.parametrize("w", [(6, 4), (1, 6, 4), (2, 6, 4), (6,)])
def test_matmul_of_every_rank(a: list[int | str], w: tuple[int, ...], make: Make, agree: Agree) -> None:
    shape = [{"b": 2, "s": 2}.get(n, n) if isinstance(n, str) else n for n in a]
    agree(
        make([node("MatMul", ["x", "w"], ["y"])], {"x": ("float32", a)}, {"w": f32(*w)}), {"x": f32(*shape)}
    )


def test_weight_on_the_left_moves_to_the_right(make: Make, agree: Agree) -> None:
    model = make([node("MatMul", ["w", "x"], ["y"])], {"x": ("float32", ["b", 6, "s"])}, {"w": f32(4, 6)})
    plain = agree(model, {"x": f32(2, 6, 3)})
    assert [t.op.name for t in plain.ops if t.op] == ["permute_dims", "matmul", "permute_dims"]


@pytest.mark.parametrize(
    "attrs", [{}, {"transB": 1}, {"transA": 1}, {"alpha": 0.5, "beta": 2.0}, {"beta": 0.0}]
)
@pytest.mark.parametrize("bias", [(4,), (), (1, 4), None])
def test_gemm(attrs: dict[str, float], bias: tuple[int, ...] | None, make: Make, agree: Agree) -> None:
    x = f32(6, 3) if attrs.get("transA") else f32(3, 6)
    weights = {"w": f32(4, 6) if attrs.get("transB") else f32(6, 4)}
    names = ["x", "w"]
    if bias is not None:
        weights["c"] = f32(*bias)
        names.append("c")
    agree(make([node("Gemm", names, ["y"], **attrs)], {"x": ("float32", list(x.shape))}, weights), {"x": x})


@pytest.mark.parametrize(
    ("equation", "a", "w"),
    [
        ("bsk,kn->bsn", (2, 3, 6), (6, 4)),
        ("bsk,nk->bsn", (2, 3, 6), (4, 6)),
        ("bsk,khd->bhsd", (2, 3, 6), (6, 2, 4)),
        ("bhsd,hdk->bsk", (2, 2, 3, 4), (2, 4, 6)),
        ("bik,bjk->bij", (2, 3, 6), (2, 5, 6)),
        ("i,j->ij", (3,), (4,)),
        ("ij,ij->i", (3, 4), (3, 4)),
    ],
)
def test_einsum(equation: str, a: tuple[int, ...], w: tuple[int, ...], make: Make, agree: Agree) -> None:
    model = make(
        [node("Einsum", ["x", "w"], ["y"], equation=equation)], {"x": ("float32", list(a))}, {"w": f32(*w)}
    )
    agree(model, {"x": f32(*a)})


CONVS = {
    "pointwise": ((5, 4, 1), {}),
    "patches": ((5, 4, 3), {"strides": [3]}),
    "same": ((5, 4, 3), {"pads": [1, 1]}),
    "same upper": ((5, 4, 3), {"auto_pad": "SAME_UPPER"}),
    "dilated": ((5, 4, 3), {"dilations": [2]}),
    "grouped": ((4, 2, 3), {"group": 2}),
    "depthwise": ((4, 1, 3), {"group": 4, "pads": [2, 0]}),
    "patches 2d": ((5, 4, 2, 3), {"strides": [2, 3]}),
    "pointwise 2d": ((5, 4, 1, 1), {}),
    "plain 2d": ((5, 4, 3, 3), {"strides": [2, 1], "pads": [1, 0, 1, 0]}),
}


@pytest.mark.parametrize("case", CONVS)
def test_conv(case: str, make: Make, agree: Agree) -> None:
    kernel, attrs = CONVS[case]
    space = [9] if len(kernel) == 3 else [7, 9]
    model = make(
        [node("Conv", ["x", "w", "c"], ["y"], **attrs)],
        {"x": ("float32", ["b", 4, *space])},
        {"w": f32(*kernel), "c": f32(kernel[0])},
    )
    plain = agree(model, {"x": f32(2, 4, *space)})
    linear = any(t.op and t.op.name == "matmul" for t in plain.ops)
    assert linear == case.startswith(("pointwise", "patches"))


def test_moves(make: Make, agree: Agree) -> None:
    nodes = [
        node("Reshape", ["x", "r"], ["a"]),
        node("Transpose", ["a"], ["t"], perm=[0, 2, 1, 3]),
        node("Split", ["t", "parts"], ["p", "q"], axis=3),
        node("Concat", ["q", "p"], ["c"], axis=-1),
        node("Unsqueeze", ["c", "one"], ["u"]),
        node("Squeeze", ["u", "one"], ["s"]),
        node("Slice", ["s", "from", "to", "ax", "step"], ["v"]),
        node("Tile", ["v", "times"], ["w"]),
        node("Pad", ["w", "pads", "fill"], ["y"]),
    ]
    weights = {
        "r": i64(0, -1, 2, 6), "parts": i64(4, 2), "one": i64(1), "from": i64(-1, 1), "to": i64(-99, 99),
        "ax": i64(3, 1), "step": i64(-2, 1), "times": i64(1, 2, 1, 3), "pads": i64(0, 1, 0, 2, 0, 0, 1, 0),
        "fill": np.float32(7),
    }  # fmt: skip
    agree(
        make(nodes, {"x": ("float32", ["b", "s", 12])}, weights), {"x": f32(2, 3, 12)}, {"x": f32(1, 4, 12)}
    )


def test_gathers(make: Make, agree: Agree) -> None:
    inputs = {"x": ("float32", ["b", 5, 4]), "i": ("int64", ["b", 2])}
    feeds = {"x": f32(3, 5, 4), "i": np.array([[0, -1], [4, 2], [-5, 1]])}
    agree(make([node("Gather", ["x", "i"], ["y"], axis=1)], inputs), feeds)
    agree(
        make([node("Gather", ["x", "k"], ["y"], axis=-2)], {"x": inputs["x"]}, {"k": i64(-1)[0]}),
        {"x": feeds["x"]},
    )
    agree(
        make([node("Gather", ["x", "k"], ["y"], axis=1)], {"x": inputs["x"]}, {"k": i64(1, 2, 3)}),
        {"x": feeds["x"]},
    )
    agree(
        make(
            [node("Gather", ["x", "k"], ["y"], axis=1)], {"x": inputs["x"]}, {"k": np.array([[0, 3], [1, 1]])}
        ),
        {"x": feeds["x"]},
    )
    inputs["i"] = ("int64", ["b", 2, 4])
    many = {"x": feeds["x"], "i": rng.integers(-5, 5, (3, 2, 4))}
    agree(make([node("GatherElements", ["x", "i"], ["y"], axis=1)], inputs), many)
    inputs["i"] = ("int64", ["n", 2])
    agree(
        make([node("GatherND", ["x", "i"], ["y"])], inputs),
        {"x": feeds["x"], "i": np.array([[0, -1], [2, 4]])},
    )


def test_scatter_elements(make: Make, agree: Agree) -> None:
    inputs = {"x": ("float32", [5, 4]), "i": ("int64", [2, 4]), "u": ("float32", [2, 4])}
    feeds = {"x": f32(5, 4), "i": np.array([[0, 1, 2, 3], [4, 3, -5, 0]]), "u": f32(2, 4)}
    agree(make([node("ScatterElements", ["x", "i", "u"], ["y"], axis=0)], inputs), feeds)


def test_scatter_nd(make: Make, agree: Agree) -> None:
    inputs = {"x": ("float32", [5, 4]), "u": ("float32", ["n", 4])}
    model = make([node("ScatterND", ["x", "i", "u"], ["y"])], inputs, {"i": np.array([[3], [-5]])})
    agree(model, {"x": f32(5, 4), "u": f32(2, 4)})


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_and_space(mode: str, make: Make, agree: Agree) -> None:
    nodes = [
        node("DepthToSpace", ["x"], ["s"], blocksize=2, mode=mode),
        node("SpaceToDepth", ["s"], ["y"], blocksize=3),
    ]
    agree(make(nodes, {"x": ("float32", ["b", 12, 3, 6])}), {"x": f32(2, 12, 3, 6)})


def test_group_norms_and_pool(make: Make, agree: Agree) -> None:
    weights = {"g": f32(4), "c": f32(4), "p": f32(4, 1)}
    nodes = [
        node("InstanceNormalization", ["x", "g", "c"], ["a"]),
        node("GroupNormalization", ["a", "g", "c"], ["b"], num_groups=2),
        node("PRelu", ["b", "p"], ["d"]),
        node("GlobalAveragePool", ["d"], ["e"]),
        node("Add", ["d", "e"], ["y"]),
    ]
    agree(make(nodes, {"x": ("float32", ["b", 4, "s"])}, weights, opset=21), {"x": f32(2, 4, 7)})


def test_trilu_and_eye(make: Make, agree: Agree) -> None:
    for upper in (0, 1):
        for k in (-1, 0, 2):
            nodes = [
                node("Trilu", ["x", "k"], ["t"], upper=upper),
                node("EyeLike", ["x"], ["e"], k=k),
                node("Add", ["t", "e"], ["y"]),
            ]
            agree(
                make(nodes, {"x": ("float32", ["m", "n"])}, {"k": i64(k)[0]}),
                {"x": f32(3, 5)},
                {"x": f32(5, 3)},
            )


CONSTANTS = [
    {"value_float": 2.5},
    {"value_floats": [1.0, 2.0, 3.0]},
    {"value_int": 3},
    {"value_ints": [1, 2, 3]},
    {"value": helper.make_tensor("v", TensorProto.FLOAT, [3], [1, 2, 3])},
]


@pytest.mark.parametrize("attrs", CONSTANTS, ids=lambda a: next(iter(a)))
def test_constant_forms(attrs: dict[str, object], make: Make, agree: Agree) -> None:
    nodes = [
        node("Constant", [], ["c"], **attrs),
        node("Cast", ["c"], ["f"], to=TensorProto.FLOAT),
        node("Add", ["x", "f"], ["y"]),
    ]
    agree(make(nodes, {"x": ("float32", ["b", 3])}), {"x": f32(2, 3)})


def test_if_on_a_shape_is_decided(make: Make, agree: Agree) -> None:
    def branch(op: str, name: str) -> onnx.GraphProto:
        value = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        return helper.make_graph([node(op, ["x"], [name])], name, [], [value])

    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "zero"], ["n"]),
        node("Greater", ["n", "zero"], ["c"]),
        node("If", ["c"], ["y"], then_branch=branch("Neg", "t"), else_branch=branch("Exp", "e")),
    ]
    agree(make(nodes, {"x": ("float32", ["b", 3])}, {"zero": i64(0)[0]}), {"x": f32(2, 3)})


REFUSED = {
    "fmod": ([node("Mod", ["x", "x"], ["y"], fmod=1)], {}),
    "one infinity": ([node("IsInf", ["x"], ["y"], detect_negative=0)], {}),
    "reflecting pad": ([node("Pad", ["x", "p"], ["y"], mode="reflect")], {"p": i64(0, 1, 0, 1)}),
    "last argmax": ([node("ArgMax", ["x"], ["y"], select_last_index=1)], {}),
    "reverse cumsum": ([node("CumSum", ["x", "a"], ["y"], reverse=1)], {"a": i64(0)}),
    "one norm": ([node("LpNormalization", ["x"], ["y"], p=1)], {}),
    "einsum of one": ([node("Einsum", ["x"], ["y"], equation="ij->ji")], {}),
    "einsum dots": ([node("Einsum", ["x", "x"], ["y"], equation="...j,...j->...")], {}),
    "einsum diagonal": ([node("Einsum", ["x", "x"], ["y"], equation="ii,ij->j")], {}),
    "scatter add": (
        [node("ScatterElements", ["x", "i", "x"], ["y"], reduction="add")],
        {"i": np.zeros((3, 3), np.int64)},
    ),
    "scatter add by coordinates": (
        [node("ScatterND", ["x", "i", "x"], ["y"], reduction="add")],
        {"i": np.zeros((3, 1), np.int64)},
    ),
    "batched gather": (
        [node("GatherND", ["x", "i"], ["y"], batch_dims=1)],
        {"i": np.zeros((3, 1), np.int64)},
    ),
    "deviation of a norm": ([node("LayerNormalization", ["x", "x"], ["y", "m", "d"])], {}),
    "training dropout": (
        [node("Dropout", ["x", "r", "t"], ["y"])],
        {"r": np.float32(0.5), "t": np.array(True)},
    ),
    "conv in 3d": ([node("Conv", ["x", "w"], ["y"])], {"w": np.zeros((1, 1, 1, 1, 1), np.float32)}),
    "too large a gather": ([node("Gather", ["x", "i"], ["y"])], {"i": i64(3)}),
    "wrong split": ([node("Split", ["x", "p"], ["y", "z"])], {"p": i64(1, 1)}),
    "unknown output": ([node("MatMul", ["x", "x"], ["a", "y"])], {}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_form_names_the_node(case: str, make: Make) -> None:
    nodes, weights = REFUSED[case]
    nodes[0].name = "culprit"
    shape = [1, 1, 3, 3, 3] if case == "conv in 3d" else [3, 3]
    with pytest.raises(ModelError, match="culprit") as caught:
        convert(make(nodes, {"x": ("float32", shape)}, weights))
    assert caught.value.hint
