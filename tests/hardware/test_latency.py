"""The closed-form latency model against cycles of the RTL."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from fpga_cases import BASE, SMALL, decoder_case, encoder_case, needs_verilator

from espalier.codegen.fpga.program import Builder
from espalier.targets.fpga import latency
from espalier.targets.fpga.geometry import Geometry
from espalier.targets.fpga.layout import to_tiles
from espalier.targets.fpga.run import run_stream
from espalier.targets.fpga.semantics import Scale
from espalier.targets.fpga.simulator import Timing

pytestmark = [pytest.mark.unit, needs_verilator]
WIDE = Geometry(16, 4, 8, 8, 8, 32, 8, 4096, 512, 256, 32)
TIMINGS = (Timing(), Timing(latency=120), Timing(latency=40, beats=1, cycles=4))
CASES = list(itertools.product((16, 61), ((64, 40), (128, 64), (60, 200)), (1.0, 0.5, 0.25, 0.1), TIMINGS))


def balanced_hp(rng, rows, k, keep, g):
    """Bank-balanced HP: blocks of `pes` rows, `keep` of every bank's columns, `lanes` weights a window."""
    mask = np.zeros((rows, k), bool)
    slots = k // g.banks
    kept = max(1, round(slots * keep))
    for row in range(0, rows, g.pes):
        columns = [np.sort(rng.permutation(slots)[:kept]) * g.banks + bank for bank in range(g.banks)]
        for r in range(row, min(row + g.pes, rows)):
            for window in np.stack(columns, 1):
                mask[r, window[(np.arange(g.lanes) + r * g.lanes) % g.banks]] = True
    return mask, kept * g.banks


def error_and_cycles(g, tokens, k, rows, keep, timing):
    rng = np.random.default_rng(0)
    x = rng.integers(-127, 128, (tokens, k)).astype(np.int8)
    weight = rng.integers(-127, 128, (rows, k)).astype(np.int8)
    mask, words = None, latency.dense_words(k, g)
    if keep < 1:
        mask, columns = balanced_hp(rng, rows, k, keep, g)
        words = latency.hp_words(k, columns, g.lanes, g)
    b = Builder(g)
    scale = Scale(np.full(rows, 20_000), np.full(rows, 24))
    tensor = b.input(tokens, k)
    b.output(b.linear(tensor, weight, mask, np.zeros(rows, int), scale))
    p = b.finish()
    result = run_stream("rtl", g, p.stream, p.constants, [to_tiles(x, g)], p.output_bytes, timing).result
    predicted = latency.total(
        [
            latency.transfer("in", "load", tokens, k, g, timing),
            latency.linear("linear", tokens, [words] * -(-rows // g.pes), mask is not None, g, timing),
            latency.transfer("out", "store", tokens, rows, g, timing),
        ],
        timing,
    )
    assert result.counters["conflicts"] == 0
    return predicted / result.counters["cycles"] - 1


def test_layers_agree():
    errors = [abs(error_and_cycles(SMALL, t, k, n, keep, timing)) for t, (k, n), keep, timing in CASES]
    assert len(errors) == 72 and np.mean(errors) < 0.05 and max(errors) < 0.10, (np.mean(errors), max(errors))


@pytest.mark.slow
@pytest.mark.parametrize("geometry", [BASE, WIDE], ids=lambda g: g.label)
def test_layers_of_other_geometries_agree(geometry):
    cases = itertools.product((64, 100), ((312, 96), (200, 200)), (1.0, 0.5, 0.2), TIMINGS)
    errors = [abs(error_and_cycles(geometry, t, k, n, keep, timing)) for t, (k, n), keep, timing in cases]
    assert np.mean(errors) < 0.05 and max(errors) < 0.10, (np.mean(errors), max(errors))


@pytest.mark.parametrize("timing", TIMINGS)
@pytest.mark.parametrize(("tokens", "k", "rows"), [(61, 64, 200), (30, 60, 333), (61, 128, 520)])
def test_tables_and_streamed_results_agree(tokens, k, rows, timing):
    g = SMALL
    case = decoder_case(np.random.default_rng(0), g, tokens, k, rows, 1.0)
    words = [latency.dense_words(k, g)]
    costs = [
        latency.transfer("in", "load", tokens, k, g, timing),
        latency.linear("hidden", tokens, words * -(-k // g.pes), False, g, timing, tables=True),
        latency.streamed("decoder", tokens, words * -(-rows // g.pes), False, g, timing),
    ]
    found = case.run("rtl", timing).counters["cycles"]
    assert abs(latency.total(costs, timing) / found - 1) < 0.10


@pytest.mark.parametrize("size", [(16, 16, 24, 2), (37, 24, 40, 3), (30, 26, 30, 2)])
def test_every_part_of_an_encoder_agrees(size):
    tokens, width, _, heads = size
    g, timing = SMALL, Timing()
    counters = encoder_case(np.random.default_rng(3), g, *size).run("rtl", timing).counters
    turn, _, soft = latency.attention("a", tokens, width, heads, g)
    norms = [latency.norm("n", tokens, width, g, stats=stats) for stats in (True, False)]
    for predicted, found in (
        (turn.compute, counters["turn"]),
        (soft.compute, counters["softmax"]),
        (sum(n.compute for n in norms), counters["norm"]),
    ):
        assert abs(predicted / found - 1) < 0.10, (size, predicted, found)
