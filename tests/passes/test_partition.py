"""What is cut out for an accelerator, and that what is left still makes sense."""

from __future__ import annotations

import numpy as np
import pytest
from relax_models import attention, module, operators
from tvm import relax

from espalier.errors import ModelError
from espalier.passes import detect, fuse_attention, fuse_linear, fuse_norm, partition
from espalier.passes.frontend import Weight
from espalier.passes.graph import bindings, operator
from espalier.passes.state import State
from espalier.schedules.fpga import graph
from espalier.targets.host import host

pytestmark = pytest.mark.compile
RNG = np.random.default_rng(0)
SHAPE = ["batch", "sequence", 64]


def matrix(k=64, n=64):
    return RNG.standard_normal((k, n)).astype("float32")


def cut(build, weights, inputs=None, bounds=None):
    """The state after partition."""
    mod = module(build, inputs or {"x": SHAPE}, weights)
    held = {name: Weight(name, (), array) for name, array in weights.items()}
    state = State(mod, held, host(), 1, bounds=bounds or {"batch": 2, "sequence": 32})
    mod = fuse_norm.run(fuse_attention.run(mod))
    state = detect.run(state.with_mod(fuse_linear.run(mod, held)))
    return partition.run(state)


def names(part):
    return [node.name for node in part.nodes]


def calls(state):
    return operators(state.mod)["call_dps_packed"]


def test_a_chain_with_its_bias_activation_and_residual_is_one_part():
    def build(emit, x, a, b, bias):
        h = emit(relax.op.nn.relu(emit(relax.op.add(emit(relax.op.matmul(x, a)), bias))))
        return relax.op.add(emit(relax.op.matmul(h, b)), x)

    state = cut(build, {"a": matrix(64, 96), "b": matrix(96, 64), "bias": np.ones(96, "float32")})
    (part,) = state.parts
    assert names(part) == ["a", "b", "sum0"] and part.outputs == ("sum0",)
    first = part.nodes[0]
    assert isinstance(first, graph.Linear) and first.activation == "relu" and (first.bias == 1).all()
    assert (part.tokens, part.fixed, part.dimension) == (32, False, "sequence")
    assert calls(state) == 1 and operators(state.mod)["espalier.linear"] == 0


def test_an_unknown_op_ends_a_part_and_a_way_around_it_makes_no_circle():
    def build(emit, x, a, b, c):
        first = emit(relax.op.matmul(x, a))
        middle = emit(relax.op.exp(first))
        second = emit(relax.op.matmul(middle, b))
        return relax.op.add(emit(relax.op.matmul(emit(relax.op.add(first, second)), c)), second)

    state = cut(build, {name: matrix() for name in "abc"})
    assert [names(part) for part in state.parts] == [["a"], ["b", "sum0", "c", "sum1"]]
    assert [len(part.inputs) for part in state.parts] == [1, 2]
    order = [operator(value) for _, value in bindings(state.mod) if operator(value)]
    assert order == ["call_dps_packed", "exp", "call_dps_packed"]


def test_two_results_come_out_as_a_tuple():
    def build(emit, x, a, b):
        first = emit(relax.op.matmul(x, a))
        return relax.op.multiply(emit(relax.op.exp(first)), emit(relax.op.matmul(first, b)))

    state = cut(build, {"a": matrix(), "b": matrix()})
    (part,) = state.parts
    assert part.outputs == ("a", "b") and calls(state) == 1


def test_norms_at_the_beginning_stay_but_those_whose_input_is_read_again_do_not():
    gain = np.ones(64, "float32")

    def norm(x, gain):
        return relax.op.nn.layer_norm(x, gain, gain, axes=[-1])

    def alone(emit, x, a, gain):
        return relax.op.matmul(emit(norm(x, gain)), a)

    def shared(emit, x, a, gain):
        return relax.op.add(emit(relax.op.matmul(emit(norm(x, gain)), a)), x)

    assert names(cut(alone, {"a": matrix(), "gain": gain}).parts[0]) == ["a"]
    part = cut(shared, {"a": matrix(), "gain": gain}).parts[0]
    assert names(part) == ["norm0", "a", "sum0"] and len(part.inputs) == 1


def test_a_norm_of_a_sum_adds_it_itself():
    def build(emit, x, a, gain):
        total = emit(relax.op.add(emit(relax.op.matmul(x, a)), x))
        return relax.op.nn.layer_norm(total, gain, gain, axes=[-1])

    part = cut(build, {"a": matrix(), "gain": np.ones(64, "float32")}).parts[0]
    norm = part.nodes[-1]
    assert names(part) == ["a", "norm0"] and isinstance(norm, graph.Norm)
    assert (norm.x, norm.residual) == ("a", "input0")


def attend(mask_shape):
    def build(emit, x, *rest):
        mask, weights = (rest[0], rest[1:]) if mask_shape else (None, rest)
        q, k, v = (emit(relax.op.matmul(x, w)) for w in weights)
        return attention(emit, q, k, v, mask, heads=4, style="plain")

    inputs = {"x": SHAPE, **({"mask": mask_shape} if mask_shape else {})}
    return cut(build, {name: matrix() for name in "qkv"}, inputs)


@pytest.mark.parametrize(
    ("shape", "masks", "square"),
    [
        (None, ("padding",), False),
        (["batch", 1, 1, "sequence"], ("mask0",), False),
        ([1, 1, "sequence", "sequence"], ("mask0",), True),
    ],
)
def test_attention_with_its_mask(shape, masks, square):
    (part,) = attend(shape).parts
    found = part.nodes[-1]
    assert isinstance(found, graph.Attention) and part.masks == masks
    assert (found.mask, found.square, found.heads, found.scale) == (masks[0], square, 4, 0.25)


def test_a_mask_for_each_head_keeps_attention_on_the_host():
    state = attend(["batch", 4, 1, "sequence"])
    assert [names(part) for part in state.parts] == [["q", "k", "v"]]
    assert operators(state.mod)["espalier.attention"] == 1


def test_nothing_to_cut_says_why():
    def exponential(_emit, x):
        return relax.op.exp(x)

    with pytest.raises(ModelError, match="it has no linear layer"):
        cut(exponential, {})

    def product(_emit, x, a):
        return relax.op.matmul(x, a)

    with pytest.raises(ModelError, match="its sequences have 4 tokens, expected at least 8"):
        cut(product, {"a": matrix()}, bounds={"batch": 2, "sequence": 4})
    with pytest.raises(ModelError, match="its linear layers have 4 multiply-adds a value in or out"):
        cut(product, {"a": matrix(64, 4)})
    with pytest.raises(ModelError, match="a tensor of rank 4"):
        cut(product, {"a": matrix()}, {"x": [2, 2, 16, 64]})
