"""The functional simulator against numpy, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from fpga_cases import BASE, SMALL, decoder_case, encoder_case, random_case

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("geometry", [SMALL, BASE], ids=lambda g: g.label)
@pytest.mark.parametrize("seed", range(8))
def test_random_encoder_layers_equal_numpy(geometry, seed):
    random_case(seed, geometry).run("functional")


def test_tinybert_sized_layer_equals_numpy():
    case = encoder_case(np.random.default_rng(0), BASE, 64, 312, 600, 12)
    assert case.run("functional").counters["windows"] > 10_000


@pytest.mark.parametrize("geometry", [SMALL, BASE], ids=lambda g: g.label)
@pytest.mark.parametrize("rows", [1, 37, 64, 300])
def test_decoders_equal_numpy(geometry, rows):
    for density in (1.0, 0.2):
        decoder_case(np.random.default_rng(rows), geometry, 19, 45, rows, density).run("functional")


def test_result_larger_than_the_chip_equals_numpy():
    case = decoder_case(np.random.default_rng(0), SMALL, 30, 40, 1500, 0.3)
    assert case.program.output_bytes > SMALL.act_depth * SMALL.word_bytes
    case.run("functional")
