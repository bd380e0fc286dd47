"""Steps of a decoder over a cache: what becomes one operator, against ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import relax_models as models
from onnx import TensorProto, helper, numpy_helper
from onnx_models import Graph
from tvm import relax

from espalier.api import compile_model
from espalier.passes import fuse_cached_attention, still_permutes
from espalier.passes.graph import bindings, operator
from espalier.passes.views import view

pytestmark = pytest.mark.compile

HEADS, WIDTH, LAYERS = 2, 24, 3
HEAD = WIDTH // HEADS


def step(path: Path, *, new: int | str = 1, mask: str | None = None, separate: bool = False) -> Path:
    """x [1, new, 24] and a cache -> y of the same shape: three layers of attention and a linear layer each.

    The cache is one tensor [layers, 2, heads, past, 12], or `separate` tensors [1, heads, past, 12] by layer.
    mask: "add" [1, 1, new, past + new] or "keep".
    """
    graph = Graph()

    def linear(x: str, name: str, n: int) -> str:
        weight = graph.weight(f"{name}.weight", graph.rng.standard_normal((WIDTH, n)) * 0.3)
        return graph.node("Add", graph.node("MatMul", x, weight), graph.normal(f"{name}.bias", n))

    def part(x: str, place: int, axis: int, length: int = 1) -> str:
        ends = (place * length, (place + 1) * length)
        start, stop = (graph.sizes(f"at{number}", number) for number in ends)
        return graph.node("Slice", x, start, stop, graph.sizes(f"axis{axis}", axis))

    def cache(layer: int, which: int) -> str:
        if separate:
            return f"past{layer}{'kv'[which]}"
        one = graph.node("Gather", "past", graph.weight(f"layer{layer}", np.array(layer)), axis=0)
        return part(one, which, 0)

    def heads(x: str) -> str:
        return graph.node(
            "Transpose", graph.node("Reshape", x, graph.sizes("split", 0, 0, HEADS, HEAD)), perm=[0, 2, 1, 3]
        )

    x = "x"
    for layer in range(LAYERS):
        qkv = linear(x, f"{layer}.qkv", 3 * WIDTH)
        query, key, value = (heads(part(qkv, place, 2, WIDTH)) for place in range(3))
        keys = graph.node("Concat", cache(layer, 0), key, axis=2)
        values = graph.node("Concat", cache(layer, 1), value, axis=-2)
        scores = graph.node("MatMul", query, graph.node("Transpose", keys, perm=[0, 1, 3, 2]))
        scores = graph.node("Div", scores, graph.weight("root", np.array(HEAD**0.5)))
        if mask == "add":
            scores = graph.node("Add", scores, "mask")
        elif mask == "keep":
            scores = graph.node("Where", "mask", scores, graph.weight("never", np.array(-np.inf)))
        mixed = graph.node("MatMul", graph.node("Softmax", scores, axis=-1), values)
        merged = graph.node("Transpose", mixed, perm=[0, 2, 1, 3])
        merged = graph.node("Reshape", merged, graph.sizes("merge", 0, 0, WIDTH))
        x = graph.node("Add", linear(merged, f"{layer}.out", WIDTH), x)
    graph.nodes[-1].output[0] = "y"
    shapes: dict[str, list] = {"x": [1, new, WIDTH]}
    if separate:
        each = (f"past{layer}{part}" for layer in range(LAYERS) for part in "kv")
        shapes |= {name: [1, HEADS, "past", HEAD] for name in each}
    else:
        shapes["past"] = [LAYERS, 2, HEADS, "past", HEAD]
    if mask:
        shapes["mask"] = [1, 1, new, "seen"]
    kinds = {"mask": TensorProto.BOOL} if mask == "keep" else {}
    inputs = [
        helper.make_tensor_value_info(name, kinds.get(name, TensorProto.FLOAT), shape)
        for name, shape in shapes.items()
    ]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, new, WIDTH])
    held = [numpy_helper.from_array(array, name) for name, array in graph.weights.items()]
    model = helper.make_model(
        helper.make_graph(graph.nodes, "step", inputs, [output], held),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )
    onnx.save(model, path)
    return path


def feeds_of(model: Path, past: int, new: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    known = {"past": past, "new": new, "seen": past + new}
    feeds = {}
    for value in onnx.load(model).graph.input:
        shape = [
            known[dim.dim_param] if dim.dim_param else dim.dim_value
            for dim in value.type.tensor_type.shape.dim
        ]
        array = rng.standard_normal(shape).astype("float32")
        feeds[value.name] = array > -1 if value.type.tensor_type.elem_type == TensorProto.BOOL else array
    return feeds


@pytest.mark.parametrize(
    ("form", "fixed"),
    [
        ({}, None),
        ({"separate": True}, None),
        ({"separate": True, "new": "new"}, None),
        ({"mask": "add"}, 7),
        ({"mask": "keep", "separate": True, "new": 2}, 5),
    ],
)
def test_a_step_equals_onnx_runtime(form: dict, fixed: int | None, tmp_path: Path) -> None:
    model = step(tmp_path / "step.onnx", **form)
    new = form.get("new", 1)
    shapes = None
    if fixed is not None:
        shapes = {name: list(array.shape) for name, array in feeds_of(model, fixed, new).items()}
    done = compile_model(model, input_shapes=shapes, dump_code=["relax"])
    assert done.dumps["relax"].count("cls.cached_attention") == LAYERS
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    for past in (1, 5, 130) if fixed is None else (fixed,):
        for count in (1, 3) if new == "new" else (new,):
            feeds = feeds_of(model, past, count)
            (wanted,) = session.run(None, feeds)
            np.testing.assert_allclose(done.package.run(feeds)["y"], wanted, rtol=1e-4, atol=2e-5)


def decode(emit, query, past, new, *, order: tuple[int, ...] = (0, 1, 3, 2)):
    """Attention whose keys are its values."""
    keys = emit(relax.op.concat([past, new], axis=2))
    scores = emit(relax.op.matmul(query, emit(relax.op.permute_dims(keys, list(order)))))
    mixed = emit(relax.op.matmul(emit(relax.op.nn.softmax(scores)), keys))
    batch, heads, length, width = mixed.ty.shape.values
    return relax.op.reshape(emit(relax.op.permute_dims(mixed, [0, 2, 1, 3])), [batch, length, heads * width])


def test_what_the_operator_means_in_plain_relax() -> None:
    shapes = {"q": ["b", 2, 3, 8], "past": ["b", 2, "p", 8], "new": ["b", 2, 3, 8]}
    mod = models.module(decode, shapes)
    done = fuse_cached_attention.run(mod)
    found = models.operators(done)
    assert found["espalier.cached_attention"] == 1 and not found["matmul"] and not found["concat"]
    rng = np.random.default_rng(0)
    sizes = {"b": 2, "p": 5}
    args = [
        rng.standard_normal([sizes.get(dim, dim) for dim in shape]).astype("float32")
        for shape in shapes.values()
    ]
    np.testing.assert_allclose(models.run(done, *args), models.run(mod, *args), atol=1e-5)


@pytest.mark.parametrize(
    ("order", "new"),
    [
        ((0, 1, 3, 2), 4),  # more new keys than queries
        ((0, 1, 2, 3), 3),  # keys that nothing transposes
    ],
)
def test_other_attention_stays(order: tuple[int, ...], new: int) -> None:
    shapes = {"q": [1, 2, 3, 6], "past": [1, 2, 6 - new, 6], "new": [1, 2, new, 6]}
    mod = models.module(lambda *args: decode(*args, order=order), shapes)
    assert models.operators(fuse_cached_attention.run(mod))["espalier.cached_attention"] == 0


def blocks(emit, x):
    """Block 3 of the 6 of x [3, 1, 2, n, 4], moved about."""
    one = emit(relax.op.strided_slice(x, [0], [1], [2]))
    moved = emit(relax.op.permute_dims(one, [1, 0, 2, 3, 4]))
    half = emit(relax.op.split(moved, 2, axis=2))
    return relax.TupleGetItem(half, 1)


def last_view(mod):
    from espalier.passes.graph import Scope

    scope = Scope()
    for var, value in bindings(mod):
        scope.define(var, value, 1)
    return view(var, scope)


def test_a_block_is_seen_through_what_moves_nothing() -> None:
    mod = models.module(blocks, {"x": [3, 1, 2, "n", 4]})
    found = last_view(mod)
    assert found.source.same_as(mod["main"].params[0]) and (found.place, found.count) == (3, 6)


@pytest.mark.parametrize(
    "build",
    [
        lambda emit, x: relax.op.strided_slice(x, [1], [0], [1]),  # a longer axis comes before
        lambda emit, x: relax.op.strided_slice(x, [0], [1], [3]),  # of three, two from the second on
        lambda emit, x: relax.op.strided_slice(x, [0], [0], [3], [2]),
        lambda emit, x: relax.op.permute_dims(x, [1, 0, 2]),
    ],
)
def test_what_is_no_block_is_itself(build) -> None:
    found = last_view(models.module(build, {"x": [3, 2, 4]}))
    assert operator(found.source) is None and (found.place, found.count) == (0, 1)
    assert not isinstance(found.source, relax.Var) or found.source.ty.shape.values != [3, 2, 4]


def test_permutations_that_move_nothing_become_reshapes() -> None:
    def build(emit, x):
        still = emit(relax.op.permute_dims(x, [1, 0, 3, 2]))
        return relax.op.permute_dims(still, [3, 1, 2, 0])

    mod = models.module(build, {"x": [1, "n", 4, 1]})
    done = still_permutes.run(mod)
    assert models.operators(done) == {"reshape": 1, "permute_dims": 1}
    x = np.random.default_rng(0).standard_normal((1, 3, 4, 1)).astype("float32")
    np.testing.assert_array_equal(models.run(done, x), models.run(mod, x))
