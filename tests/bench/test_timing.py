"""Interleaving, with a clock of our own: no test here depends on how fast this machine is."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espalier.bench.timing import LEAST_SAMPLES, interleave, pinned, summarise

pytestmark = pytest.mark.unit


class Stage:
    """Contestants of known duration and the clock they move."""

    def __init__(self, durations: dict[str, float]) -> None:
        self.now = 0.0
        self.order: list[str] = []
        self.runs = {name: self._run(name, seconds) for name, seconds in durations.items()}

    def clock(self) -> float:
        return self.now

    def _run(self, name: str, seconds: float):
        def run() -> None:
            self.now += seconds
            self.order.append(name)

        return run


@given(
    st.lists(st.floats(1e-5, 2.0), min_size=1, max_size=5),
    st.integers(LEAST_SAMPLES, 40),
    st.floats(0.1, 20),
)
def test_every_contestant_gets_its_own_time(seconds, repeat, budget):
    durations = {f"p{index}": value for index, value in enumerate(seconds)}
    stage = Stage(durations)
    times = interleave(stage.runs, repeat=repeat, budget_s=budget, clock=stage.clock)
    for name, value in durations.items():
        assert times[name].median == pytest.approx(value * 1e3, rel=1e-6)
        assert LEAST_SAMPLES <= times[name].samples <= repeat


def test_a_slow_contestant_is_sampled_less_but_over_the_whole_run():
    stage = Stage({"fast": 0.001, "slow": 1.0})
    times = interleave(stage.runs, repeat=30, budget_s=5.0, clock=stage.clock)
    assert times["fast"].samples == 30
    assert 3 <= times["slow"].samples <= 5
    last_slow = len(stage.order) - stage.order[::-1].index("slow")
    assert last_slow > len(stage.order) / 2


def test_contestants_alternate_and_take_turns_at_being_first():
    stage = Stage({"a": 0.01, "b": 0.01})
    interleave(stage.runs, repeat=4, budget_s=100, clock=stage.clock)
    rounds = stage.order[4:]
    assert rounds == ["a", "a", "b", "b", "b", "b", "a", "a"] * 2


def test_nothing_to_time():
    assert interleave({}, repeat=3, budget_s=1) == {}


def test_summary_is_of_the_samples():
    times = summarise([3.0, 1.0, 2.0])
    assert (times.median, times.min, times.samples) == (2.0, 1.0, 3)
    assert 1.0 <= times.p5 < times.p95 <= 3.0
    assert times.to_dict()["median"] == 2.0


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no affinity on this system")
def test_pinning_is_undone_even_after_a_failure():
    before = os.sched_getaffinity(0)
    with pytest.raises(KeyError), pinned(1):
        assert len(os.sched_getaffinity(0)) == 1
        raise KeyError
    assert os.sched_getaffinity(0) == before
