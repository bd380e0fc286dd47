"""The fusing passes: what they find, what they leave alone, and that the numbers stay the same."""

from __future__ import annotations

import numpy as np
import pytest
import relax_models as models
from tvm import relax

from espalier.passes import fuse_activation, fuse_attention, fuse_linear, fuse_norm

pytestmark = pytest.mark.compile

RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype("float32")


@pytest.mark.parametrize(
    ("build", "fused"),
    [
        (models.gelu_legacy, "nn.gelu"),
        (models.gelu_dynamo, "nn.gelu"),
        (models.gelu_tanh, "nn.gelu_tanh"),
        (models.gelu_tanh_products, "nn.gelu_tanh"),
        (models.silu, "nn.silu"),
    ],
)
def test_activation_becomes_one_operator(build, fused) -> None:
    mod = models.module(build, {"x": ["b", 8]})
    done = fuse_activation.run(mod)
    assert models.operators(done) == {fused: 1}
    x = 3 * normal(5, 8)
    np.testing.assert_allclose(models.run(done, x), models.run(mod, x), atol=1e-5)


@pytest.mark.parametrize("half", [0.4, 1.0])
def test_other_coefficient_is_no_gelu(half) -> None:
    def build(emit, x):
        gelu = emit(models.gelu_legacy(emit, x))
        return relax.op.multiply(gelu, models.constant(half))

    done = models.operators(fuse_activation.run(models.module(build, {"x": [4, 8]})))
    assert done["nn.gelu"] == 1 and done["multiply"] == 1


def test_gate_of_another_value_is_no_silu() -> None:
    def build(emit, x, y):
        return relax.op.multiply(emit(relax.op.sigmoid(x)), y)

    mod = models.module(build, {"x": [4, 8], "y": [4, 8]})
    assert models.operators(fuse_activation.run(mod))["nn.silu"] == 0


@pytest.mark.parametrize("square", ["power", "multiply"])
def test_layer_norm_chain_becomes_one_operator(square) -> None:
    weights = {"gain": normal(8), "bias": normal(8)}
    mod = models.module(
        lambda emit, x, g, b: models.layer_norm_chain(emit, x, g, b, square), {"x": ["b", "s", 8]}, weights
    )
    done = fuse_norm.run(mod)
    assert models.operators(done) == {"espalier.layer_norm": 1}
    args = [normal(2, 3, 8), *weights.values()]
    np.testing.assert_allclose(models.run(done, *args), models.run(mod, *args), atol=1e-5)


def test_relax_layer_norm_is_taken() -> None:
    weights = {"gain": normal(8), "bias": normal(8)}

    def build(_emit, x, gain, bias):
        return relax.op.nn.layer_norm(x, gain, bias, axes=[-1], epsilon=1e-6)

    assert models.operators(fuse_norm.run(models.module(build, {"x": [2, 3, 8]}, weights))) == {
        "espalier.layer_norm": 1
    }


def test_layer_norm_of_another_axis_stays() -> None:
    weights = {"gain": normal(3), "bias": normal(3)}

    def build(_emit, x, gain, bias):
        return relax.op.nn.layer_norm(x, gain, bias, axes=[1], epsilon=1e-6)

    done = fuse_norm.run(models.module(build, {"x": [2, 3]}, weights))
    assert models.operators(done)["espalier.layer_norm"] == 1
    mod = models.module(
        lambda emit, x, gain, bias: relax.op.permute_dims(
            emit(relax.op.nn.layer_norm(x, gain, bias, axes=[0], epsilon=1e-6))
        ),
        {"x": [3, 2]},
        weights,
    )
    assert models.operators(fuse_norm.run(mod))["espalier.layer_norm"] == 0


def linear_module(*, bias_first: bool, activation, residual: bool, read_twice: bool = False):
    weights = {"w": normal(8, 8), "bias": normal(8)}

    def build(emit, x, w, bias):
        product = emit(relax.op.matmul(x, w))
        y = emit(relax.op.add(bias, product) if bias_first else relax.op.add(product, bias))
        if activation is not None:
            y = emit(activation(y))
        if residual:
            y = emit(relax.op.add(y, x))
        return relax.op.add(y, product) if read_twice else y

    return models.module(build, {"x": ["b", "s", 8]}, weights), weights


@pytest.mark.parametrize(
    ("bias_first", "activation", "residual"),
    [(False, None, True), (True, relax.op.nn.relu, False), (True, relax.op.nn.gelu, True)],
)
def test_linear_takes_in_what_follows(bias_first, activation, residual) -> None:
    mod, weights = linear_module(bias_first=bias_first, activation=activation, residual=residual)
    done = fuse_linear.run(mod, weights)
    assert models.operators(done) == {"espalier.linear": 1}
    args = [normal(2, 3, 8), *weights.values()]
    np.testing.assert_allclose(models.run(done, *args), models.run(mod, *args), atol=1e-5)


def test_a_product_that_is_read_twice_keeps_its_bias_apart() -> None:
    mod, weights = linear_module(bias_first=False, activation=None, residual=False, read_twice=True)
    done = fuse_linear.run(mod, weights)
    assert models.operators(done) == {"espalier.linear": 1, "add": 2}
    args = [normal(2, 3, 8), *weights.values()]
    np.testing.assert_allclose(models.run(done, *args), models.run(mod, *args), atol=1e-5)


def test_a_shared_weight_makes_two_layers() -> None:
    weights = {"w": normal(8, 8)}

    def build(emit, x, w):
        return relax.op.matmul(emit(relax.op.tanh(emit(relax.op.matmul(x, w)))), w)

    done = fuse_linear.run(models.module(build, {"x": [4, 8]}, weights), weights)
    assert '"w"' in done.script() and '"w#2"' in done.script()


def test_a_product_of_two_inputs_is_no_layer() -> None:
    mod = models.module(lambda _emit, x, y: relax.op.matmul(x, y), {"x": [4, 8], "y": [8, 8]})
    assert models.operators(fuse_linear.run(mod, [])) == {"matmul": 1}


@pytest.mark.parametrize(
    ("style", "mask"),
    [
        ("divided", ["b", 1, 1, "s"]),
        ("scaled-both", ["s", "s"]),
        ("guarded", [1, 1, "s", "s"]),
        ("transposed-twice", None),
        ("merged-meanwhile", None),
    ],
)
def test_attention_becomes_one_operator(style, mask) -> None:
    inputs = {name: ["b", "s", 8] for name in "qkv"} | ({"mask": mask} if mask else {})
    mod = models.module(lambda emit, *args: models.attention(emit, *args, heads=2, style=style), inputs)
    done = fuse_attention.run(mod)
    found = models.operators(done)
    assert found["espalier.attention"] == 1 and not found["matmul"] and not found["nn.softmax"]
    args = [normal(2, 5, 8) for _ in "qkv"]
    if mask:
        args.append(normal(*[{"b": 2, "s": 5}.get(dim, dim) for dim in mask]))
    np.testing.assert_allclose(models.run(done, *args), models.run(mod, *args), atol=1e-5)


def test_cross_attention_stays() -> None:
    inputs = {"q": ["b", "s", 8], "k": ["b", "t", 8], "v": ["b", "t", 8]}
    mod = models.module(lambda emit, *args: models.attention(emit, *args, heads=2, style="divided"), inputs)
    assert models.operators(fuse_attention.run(mod))["espalier.attention"] == 0
