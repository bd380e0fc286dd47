"""The RTL against numpy and the functional simulator, bit for bit; conflicts never happen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fpga_cases import (
    BASE,
    SMALL,
    Case,
    decoder_case,
    encoder_case,
    needs_verilator,
    random_case,
    random_linear,
    random_program,
)

from espalier.codegen.fpga.program import Builder
from espalier.targets.fpga import semantics
from espalier.targets.fpga.simulator import Device, Timing

pytestmark = [pytest.mark.unit, needs_verilator]


@pytest.mark.parametrize("seed", range(12))
def test_random_encoder_layers_equal_numpy(seed):
    case = random_case(seed, SMALL)
    fast, slow = case.run("rtl"), case.run("rtl", Timing(latency=90, beats=1, cycles=3))
    assert fast.counters["conflicts"] == slow.counters["conflicts"] == 0
    assert slow.counters["cycles"] > fast.counters["cycles"]
    assert fast.counters["windows"] == slow.counters["windows"] == case.run("functional").counters["windows"]


def columns_case(columns) -> Case:
    """A layer whose rows keep these of 64 columns."""
    rng = np.random.default_rng(0)
    x = rng.integers(-128, 128, (24, 64)).astype(np.int8)
    weight, _, bias, scale = random_linear(rng, 16, 64, 1.0)
    mask = np.zeros((16, 64), bool)
    mask[:, columns] = True
    weight[~mask] = 0
    b = Builder(SMALL)
    y = b.linear(b.input(24, 64), weight, mask, bias, scale)
    b.output(y)
    return Case(b.finish(), (x,), ((y, semantics.linear(x, weight, bias, scale)),))


def test_masks_that_are_not_bank_balanced_are_right_and_slower():
    balanced, skewed = (columns_case(c).run("rtl").counters for c in (range(16), range(0, 64, 4)))
    assert balanced["conflicts"] == skewed["conflicts"] == 0
    # one bank gives one column a window, four banks give four to two lanes
    assert skewed["windows"] == 2 * balanced["windows"]
    assert skewed["cycles"] > 1.3 * balanced["cycles"]


@pytest.mark.parametrize("timing", [Timing(), Timing(latency=90, beats=1, cycles=3)])
def test_decoder_equals_numpy(timing):
    result = decoder_case(np.random.default_rng(0), SMALL, 19, 45, 300, 0.2).run("rtl", timing)
    assert result.counters["conflicts"] == 0


@pytest.mark.parametrize("seed", range(60))
def test_random_programs_leave_the_same_memory(seed):
    rng = np.random.default_rng(seed)
    stream, memory, timing = random_program(rng, SMALL)
    found = []
    for kind in ("functional", "rtl"):
        with Device(kind, SMALL, len(memory), timing) as device:
            for region in range(4):
                device.region(region, region * len(memory) // 4, len(memory) // 4)
            device.write(0, memory)
            result = device.run(stream, cycles=2_000_000)
            found.append(device.read(0, len(memory)))
            assert result.counters["conflicts"] == 0
    assert (found[0] != memory).any()
    np.testing.assert_array_equal(found[0], found[1])


def test_another_geometry_is_a_fault():
    from espalier.targets.fpga import isa
    from espalier.targets.fpga.isa import Instruction

    other = replace(SMALL, par_depth=256)
    with Device("rtl", SMALL, 64) as device:
        result = device.try_run(isa.assemble([other.start(), Instruction("FINISH")]))
    assert (result.fault, result.instruction) == ("GEOMETRY", 0)


@pytest.mark.slow
def test_tinybert_layer_equals_numpy():
    case = encoder_case(np.random.default_rng(0), replace(BASE, act_depth=8192), 64, 312, 1200, 12)
    result = case.run("rtl")
    assert result.counters["conflicts"] == 0
    case.run("functional")
