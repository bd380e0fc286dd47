"""int8 operations: near the float ones."""

from __future__ import annotations

import numpy as np
import pytest

from espalier.codegen.fpga.program import Builder, CapacityError
from espalier.codegen.fpga.quantise import Linear, activation_tables, int_linear, multiplier
from espalier.targets.fpga.geometry import Geometry

pytestmark = pytest.mark.unit
G = Geometry(16, 4, 8, 8, 4, 16, 8, 4096, 1024, 256, 32)


def gelu(x):
    return 0.5 * x * (1 + np.tanh(0.7978845608 * (x + 0.044715 * x**3)))


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


def test_bias_takes_back_what_rounding_adds_to_the_mean():
    rng = np.random.default_rng(0)
    # weights of one row differ a thousandfold, so the small ones round to 0
    layer = Linear(np.concatenate([np.ones((4, 1)), np.full((4, 63), 1e-3)], 1), np.zeros(4))
    x = rng.normal(2, 0.1, (200, 64))
    into, out = np.full(64, 3 / 127), np.full(4, 4 / 127)
    codes = np.clip(np.round(x / into), -128, 127).astype(np.int8)

    def error(mean):
        return (int_linear(layer, into, out, mean=mean)(codes) * out - x @ layer.weight.T).mean()

    assert abs(error(None)) > 0.1
    assert abs(error(x.mean(0))) < 0.01


def test_a_model_too_large_says_what_is_missing():
    b = Builder(G)
    with pytest.raises(CapacityError, match=r"512 x 1024 activations need 8192 words"):
        b.tensor(512, 1024)
    with pytest.raises(CapacityError, match=r"2000 words do not fit the weight memory of 1024"):
        x = b.tensor(8, 8000)
        b.linear(x, np.zeros((4, 8000), np.int8), None, np.zeros(4, int), multiplier(np.ones(4)))
