"""The array never waits for a bank: HP takes the cycles of its windows, and the counter of it can count."""

from __future__ import annotations

import shutil
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from fpga_cases import SMALL, decoder_case, needs_verilator

from espalier.bench.accelerator import Layer, layer_program, layer_words, simulate
from espalier.targets.fpga import latency, simulator
from espalier.targets.fpga.encoder import DENSE, Pruning

pytestmark = [pytest.mark.unit, needs_verilator]
GRANT = "assign store_grant = store_want && !a_act_re && !v_act_re && !exclusive;"


@pytest.mark.parametrize("pruning", [DENSE, Pruning(1.0, 2), Pruning(0.5, 2), Pruning(0.25, 2)])
@pytest.mark.parametrize(("tokens", "k", "rows"), [(16, 64, 40), (37, 62, 45), (5, 30, 9)])
def test_no_cycle_of_a_layer_is_lost(pruning: Pruning, tokens: int, k: int, rows: int) -> None:
    layer, g = Layer(tokens, k, rows, pruning), SMALL
    counters = simulate(layer_program(layer, g)).counters
    assert counters["conflicts"] == counters["yields"] == 0
    blocks, tiles = -(-rows // g.pes), latency.tiles_of(tokens, g)
    words = layer_words(layer, g)
    assert counters["windows"] == blocks * tiles * words
    busy = blocks * tiles * max(words, g.pes // g.width)
    if words * tiles > 200:  # memory hides behind so many windows
        assert busy < counters["linear"] < 1.02 * busy + 40


def test_a_store_that_does_not_wait_for_the_array_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same RTL with the arbiter taken out of it."""
    hardware = tmp_path / "hardware"
    shutil.copytree(str(resources.files("espalier.hardware")), hardware)
    core = hardware / "rtl" / "core.sv"
    text = core.read_text()
    assert text.count(GRANT) == 1
    core.write_text(text.replace(GRANT, "assign store_grant = store_want && !exclusive;"))
    case = decoder_case(np.random.default_rng(0), SMALL, 61, 64, 520, 1.0)
    assert case.run("rtl").counters["conflicts"] == 0
    monkeypatch.setattr(simulator.resources, "files", lambda _: hardware)
    with pytest.raises(AssertionError):  # the array was given another word than it asked for
        case.run("rtl")
    assert simulate(case.program).counters["conflicts"] > 0
