"""What lies where while a part is run, and for how many tokens at a time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from espalier.schedules.fpga.memory import CapacityError, Memory
from espalier.schedules.fpga.plan import choose
from espalier.schedules.fpga.walk import crossing, places, segments
from espalier.schedules.fpga.work import AttentionWork, LinearWork, Model, NormWork
from espalier.targets.fpga import encoder, latency
from espalier.targets.fpga.geometry import Geometry
from espalier.targets.fpga.simulator import Timing

pytestmark = pytest.mark.unit
G = Geometry(16, 4, 8, 8, 4, 16, 8, 4096, 1024, 256, 32)
TIMING = Timing()


def linear(name, x, rows, k, *, tables=False, streamed=False):
    words = (latency.dense_words(k, G),) * -(-rows // G.pes)
    return LinearWork(name, x, rows, words, False, rows * k, tables, name, streamed)


def layer(tokens=128, width=96, hidden=200, heads=4, decoder=0):
    steps = [linear(name, "x", width, width) for name in "qkv"]
    steps += [AttentionWork("a", "q", "k", "v", width, heads), linear("o", "a", width, width)]
    steps += [NormWork("n", "o", "x", width, True), linear("h", "n", hidden, width, tables=True)]
    steps += [linear("b", "h", width, hidden), NormWork("m", "b", "n", width, True)]
    if decoder:
        steps.append(linear("d", "m", decoder, width, streamed=True))
    return Model(tokens, (("x", width),), tuple(steps), (steps[-1].name,))


def test_attention_and_what_goes_straight_out_stand_alone():
    model = layer(decoder=500)
    assert segments(model) == [(0, 3), (3, 4), (4, 9), (9, 10)]
    assert crossing(model) == {"x", "q", "k", "v", "a", "m", "d"}


def test_where_all_fits_nothing_leaves_the_chip_and_the_costs_are_the_encoders():
    found = choose(layer(), G, TIMING)
    assert not found.plan.outside and all(unit.tiles == 16 for unit in found.plan.units)
    model = encoder.Encoder("layer", 1, 96, 200, 4)
    expected = encoder.costs(model, 128, encoder.DENSE, G, TIMING)
    assert [cost.compute for cost in found.costs] == pytest.approx([cost.compute for cost in expected])
    assert found.cycles == pytest.approx(latency.total(expected, TIMING))


def test_less_memory_costs_more_and_never_less_work():
    plans = [choose(layer(), replace(G, act_depth=depth), TIMING) for depth in (2048, 1024, 768, 512)]
    cycles = [plan.cycles for plan in plans]
    assert cycles == sorted(cycles) and cycles[-1] < 1.25 * cycles[0]
    assert len({sum(cost.macs for cost in plan.costs) for plan in plans}) == 1
    assert plans[-1].plan.outside and plans[-1].plan.units[-1].tiles < 16
    beats = [sum(cost.beats for cost in plan.costs) for plan in plans]
    assert beats == sorted(beats) and beats[-1] > beats[0]


def test_slow_memory_keeps_on_chip_what_a_fast_one_need_not():
    g = replace(G, act_depth=1024)
    slow, fast = (choose(layer(), g, timing).plan for timing in (Timing(beats=1, cycles=4), TIMING))
    assert not slow.outside and slow.units[1].tiles < 16
    assert fast.outside and fast.units[1].tiles == 16


def test_heads_that_share_a_slot_go_together():
    for width, heads, together in ((96, 4, 1), (48, 4, 2), (104, 4, 4), (312, 12, 4), (60, 5, 5), (30, 5, 5)):
        step = AttentionWork("a", "q", "k", "v", width, heads)
        assert step.group(G) == together


def test_places_outside_follow_one_another():
    model = layer(tokens=20)
    found = places(model, frozenset({"q", "k"}), G)
    assert (found.of["x"].region, found.of["m"].region, found.of["q"].region) == (1, 2, 2)
    words = 3 * 12
    assert [found.of[name].first for name in ("m", "q", "k")] == [0, words, 2 * words]
    assert (found.input_words, found.output_words, found.words) == (words, words, 3 * words)
    assert found.of["q"].at(2, 5).first == words + 2 * 12 + 5


def test_a_model_too_large_in_the_smallest_steps_is_refused():
    with pytest.raises(CapacityError, match=r"activations need .* words in one piece"):
        choose(layer(), replace(G, act_depth=16), TIMING)


def test_memory_gives_the_first_place_and_joins_what_is_freed():
    memory = Memory(replace(G, act_depth=40))
    a, b, c = (memory.take(8, 80) for _ in range(3))
    assert [t.base for t in (a, b, c)] == [0, 10, 20]
    memory.free(a, c)
    trial = memory.copy()
    trial.free(b)
    assert trial.take(8, 320).base == 0
    with pytest.raises(CapacityError, match="8 x 320 activations need 40 words in one piece; 30 of the 40"):
        memory.take(8, 320)
    tensor = replace(b, tiles=4, tokens=30)
    part = tensor.rows(2, 2, G).columns(16, 24, G)
    assert (part.base, part.stride, part.tokens, part.features) == (10 + 2 * 10 + 2, 10, 14, 24)
