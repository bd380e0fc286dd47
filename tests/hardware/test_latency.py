"""The closed-form latency model against cycles of the RTL."""

from __future__ import annotations

import numpy as np
import pytest
from fpga_cases import BASE, SMALL, decoder_case, encoder_case, needs_verilator

from espalier.bench import accelerator
from espalier.targets.fpga import latency
from espalier.targets.fpga.geometry import Geometry
from espalier.targets.fpga.simulator import Timing

pytestmark = [pytest.mark.unit, needs_verilator]
WIDE = Geometry(16, 4, 8, 8, 8, 32, 8, 4096, 512, 256, 32)


def errors(g):
    """Of the model against the RTL, over all cases; no case may meet a conflict."""
    found = []
    for layer, timing in accelerator.cases(g):
        counters = accelerator.simulate(accelerator.layer_program(layer, g), timing).counters
        assert counters["conflicts"] == 0, layer
        found.append(abs(accelerator.layer_cycles(layer, g, timing) / counters["cycles"] - 1))
    return found


@pytest.mark.parametrize(
    "g", [SMALL, *(pytest.param(g, marks=pytest.mark.slow) for g in (BASE, WIDE))], ids=lambda g: g.label
)
def test_layers_agree(g):
    found = errors(g)
    assert len(found) == 72 and np.mean(found) < 0.05 and max(found) < 0.10, (np.mean(found), max(found))


@pytest.mark.parametrize("timing", accelerator.TIMINGS)
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
