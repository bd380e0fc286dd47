"""int8 encoders: near the float ones, and the program equals the integer reference."""

from __future__ import annotations

import numpy as np
import pytest

from espalier.codegen.fpga.program import Builder, CapacityError
from espalier.codegen.fpga.quantise import (
    Layer,
    Linear,
    Norm,
    activation_tables,
    multiplier,
    quantise,
    to_int8,
)
from espalier.targets.fpga.geometry import Geometry
from espalier.targets.fpga.layout import from_tiles, to_tiles
from espalier.targets.fpga.run import run_stream

pytestmark = pytest.mark.unit
G = Geometry(16, 4, 8, 8, 4, 16, 8, 4096, 1024, 256, 32)


def gelu(x):
    return 0.5 * x * (1 + np.tanh(0.7978845608 * (x + 0.044715 * x**3)))


def random_layers(rng, count, width, hidden, heads, density=1.0):
    def linear(n, k, size=1.0):
        weight = rng.normal(0, size * k**-0.5, (n, k))
        mask = rng.random((n, k)) < density
        return Linear(weight * mask / density**0.5, rng.normal(0, 0.1, n), None if density == 1 else mask)

    def norm():
        return Norm(rng.normal(1, 0.2, width), rng.normal(0, 0.2, width), 1e-12)

    return [
        Layer(
            query=linear(width, width, 0.5), key=linear(width, width, 0.5), value=linear(width, width),
            output=linear(width, width), norm1=norm(), hidden=linear(hidden, width),
            back=linear(width, hidden), norm2=norm(), heads=heads, activation=gelu,
        )
        for _ in range(count)
    ]  # fmt: skip


def float_result(layers, x):
    for layer in layers:
        x = layer.trace(x)["n2"]
    return x


@pytest.mark.parametrize("density", [1.0, 0.3])
def test_int8_is_near_float_and_the_program_equals_it(density):
    rng = np.random.default_rng(0)
    layers = random_layers(rng, 2, 52, 100, 4, density)
    sample = lambda: rng.normal(0, 1, (21, 52)) * np.linspace(0.3, 3, 52)  # noqa: E731
    ints = quantise(layers, [sample() for _ in range(40)], G.pes)
    x = sample()
    y = to_int8(x, ints[0].into)
    b = Builder(G)
    tensor = b.input(21, 52)
    for n, layer in enumerate(ints):
        tensor = layer.emit(b, tensor, f"layer{n}")
        y = layer(y)
    b.output(tensor)
    program = b.finish()

    expected = float_result(layers, x)
    error = np.sqrt(((y * ints[-1].out - expected) ** 2).mean() / (expected**2).mean())
    assert error < 0.05

    inputs = [to_tiles(to_int8(x, ints[0].into), G)]
    run = run_stream("functional", G, program.stream, program.constants, inputs, program.output_bytes)
    tiles = run.output.view(np.int8).reshape(tensor.tiles, tensor.stride, G.banks, G.tokens)
    np.testing.assert_array_equal(from_tiles(tiles, 21, 52), y)
    names = [name for name, _, _ in program.sections]
    assert names[0] == "input" and names[-1] == "output" and "layer1.attention.softmax" in names


def test_multiplier_keeps_sixteen_bits():
    real = np.array([1e-9, 0.003, 0.5, 1.0, 300.0])
    scale = multiplier(real)
    np.testing.assert_allclose(scale.mul / 2.0**scale.shift, real, rtol=2e-4)
    assert (scale.mul <= 65535).all() and (scale.shift <= 47).all()


def test_a_feature_with_outliers_costs_only_its_group():
    rng = np.random.default_rng(0)
    pre = rng.normal(0, 1, (500, 24))
    pre[:, 3] *= 10

    def error(group):
        found = activation_tables(pre, gelu, group)
        codes = np.clip(np.round(pre / found.before), -128, 127).astype(np.int8)
        out = found.table[np.arange(24), codes.view(np.uint8)] * found.after
        return np.sqrt(((out - gelu(pre)) ** 2).mean(0))

    alone, together = error(8), error(24)
    assert (alone[8:] < together[8:] / 3).all()
    assert (alone[8:] < 0.02).all()


def test_rows_computed_at_once_have_one_table():
    b = Builder(G)
    x = b.tensor(8, 8)
    table = np.zeros((16, 256), np.int8)
    table[9] = 1
    weight, bias = np.ones((16, 8), np.int8), np.zeros(16, int)
    with pytest.raises(ValueError, match=r"rows 0..15 of gelu take one table"):
        b.linear(x, weight, None, bias, multiplier(np.ones(16)), "TABLE", table, "gelu")


def test_calibration_needs_samples():
    with pytest.raises(ValueError, match="no sample to calibrate on"):
        quantise(random_layers(np.random.default_rng(0), 1, 8, 8, 1), [], G.pes)


def test_a_model_too_large_says_what_is_missing():
    b = Builder(G)
    with pytest.raises(CapacityError, match=r"512 x 1024 activations need 8192 words"):
        b.tensor(512, 1024)
    with pytest.raises(CapacityError, match=r"2000 words do not fit the weight memory of 1024"):
        x = b.tensor(8, 8000)
        b.linear(x, np.zeros((4, 8000), np.int8), None, np.zeros(4, int), multiplier(np.ones(4)))
