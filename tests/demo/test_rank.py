"""The ranking of devices: which way it must go, not how fast anything is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from espalier.bench.timing import Times
from espalier.demo.rank import Linear, linear_ms, rank
from espalier.sparsity import HP, Dense
from espalier.targets.cpu import Cpu
from espalier.targets.device import Device
from espalier.targets.registry import devices

pytestmark = pytest.mark.unit

LAYERS = (Linear(128, 128, HP(32, 24, 4, 2, 4), 512), Linear(10, 128, Dense(), 512))


def device(name: str, cpu: Cpu) -> Device:
    return Device(name, "llvm", name, present=False, target=cpu, figures=())


@pytest.fixture
def here() -> Cpu:
    return next(one.cpu for one in devices().values() if isinstance(one.target, Cpu))


def times(ms: float) -> Times:
    return Times(ms, ms * 0.9, ms * 1.1, ms * 0.8, 30)


def test_this_machine_is_measured_and_others_are_predicted(here):
    fast = replace(here, clock_ghz=here.clock_ghz * 2, memory_gbps=here.memory_gbps * 2)
    ranking = rank(LAYERS, [device("here", here), device("fast", fast)], times(5.0), lc_ms=100.0)
    first, second = ranking.devices
    assert (first.name, first.how) == ("fast", "predicted")
    assert (second.name, second.how, second.latency_ms) == ("here", "measured", 5.0)
    assert (second.low_ms, second.high_ms) == (4.5, 5.5)
    assert first.latency_ms == pytest.approx(2.5)
    assert first.low_ms < first.latency_ms < first.high_ms


def test_the_weakest_that_is_sure_to_meet_the_constraint_is_best(here):
    slow = replace(here, clock_ghz=here.clock_ghz / 2, memory_gbps=here.memory_gbps / 2)
    both = [device("here", here), device("slow", slow)]
    assert rank(LAYERS, both, times(5.0), lc_ms=20.0).best == "slow"
    at_the_edge = rank(LAYERS, both, times(5.0), lc_ms=10.5)
    assert at_the_edge.best == "here"
    assert {one.name: one.meets_lc for one in at_the_edge.devices} == {"here": True, "slow": False}
    assert rank(LAYERS, both, times(5.0), lc_ms=1.0).best is None


def test_pruned_layers_are_predicted_to_be_faster_on_every_device():
    dense = [replace(layer, structure=Dense()) for layer in LAYERS]
    for one in devices().values():
        if isinstance(one.target, Cpu):
            assert linear_ms(LAYERS, one.cpu) < linear_ms(dense, one.cpu), one.name


def test_what_is_printed_is_what_the_contract_says(here):
    found = rank(LAYERS, [device("here", here)], times(5.0), lc_ms=6.0).to_dict()
    assert found["best"] == "here" and found["lc_ms"] == 6.0
    (row,) = found["devices"]
    assert list(row) == ["name", "kind", "latency_ms", "low_ms", "high_ms", "how", "cost_usd", "meets_lc"]
