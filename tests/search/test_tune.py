"""Tuning on a made-up machine whose times are known: what is found, kept, gone on with, and settled."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from espalier.schedules import LinearKernel, LinearWork, linear_candidates
from espalier.schedules.estimate import ByRule
from espalier.search.record_file import RecordsFile, read_records
from espalier.search.records import Place
from espalier.search.tune import Budget, Progress, Task, Tuner
from espalier.sparsity import BP, HP
from espalier.targets.x86.classes import core_classes

pytestmark = pytest.mark.unit

CPU = core_classes()["znver1"].cpu
PLACE = Place("znver1", CPU.clock_ghz, 1)


def task(label: str, work: LinearWork, count: int = 1) -> Task:
    return Task(label, tuple(linear_candidates(work, CPU)), 128, count)


TASKS = [
    task("up", LinearWork(384, 384, HP(32, 76, 4, 2, 4)), 6),
    task("down", LinearWork(384, 384, BP(32, 38)), 2),
]


def chance(text: str) -> float:
    """Between 0 and 1, always the same for a text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) / 2**32


@dataclass
class MadeUp:
    """A machine where taller blocks are faster, each kernel by chance up to a tenth more or less.

    noise: how much a sample may be off besides. slow: once so many kernels were loaded, all
    take twice as long.
    """

    noise: float = 0.0
    slow: float = float("inf")
    samples: int = 0
    loaded: list[str] = field(default_factory=list)

    def truth(self, kernel: LinearKernel) -> float:
        off = 1.3 - 0.3 * min(kernel.knobs.get("height", 0), 256) / 256
        return kernel.milliseconds(128, 1) * off * (0.9 + 0.2 * chance(kernel.name)) / 1e3

    def load(self, kernel: LinearKernel, tokens: int) -> Callable[[int], float]:
        assert tokens == 128
        self.loaded.append(kernel.name)

        def run(count: int) -> float:
            self.samples += 1
            off = 1 + self.noise * chance(f"{kernel.name} {self.samples}")
            return self.truth(kernel) * off * (2 if len(self.loaded) > self.slow else 1)

        return run


def tune(
    path: Path, machine: MadeUp, trials: int, seed: int = 0, stop_after: int | None = None
) -> tuple[Tuner, list, list[Progress]]:
    seen: list[Progress] = []
    file = RecordsFile(path)
    tuner = Tuner(TASKS, machine, CPU, file, PLACE, untuned=ByRule(), seed=seed)
    stop = lambda: stop_after is not None and tuner.trials >= stop_after  # noqa: E731
    tuned = tuner.run(Budget(trials), seen.append, stop)
    file.close()
    return tuner, tuned, seen


def best_of_all(machine: MadeUp, one: Task) -> float:
    return min(machine.truth(variant) for base in one.bases for variant in base.variants()) * 1e3


def test_it_comes_near_the_best_of_all_by_trying_few(tmp_path: Path) -> None:
    pytest.importorskip("xgboost")
    machine = MadeUp()
    tuner, tuned, seen = tune(tmp_path / "r", machine, 120)
    tried = sum(one.trials for one in tuned)
    assert tried == tuner.trials == 120 < 0.15 * sum(len(state.variants) for state in tuner.states)
    for one in tuned:
        assert one.best_ms < 0.97 * one.untuned_ms
        assert one.best_ms < 1.06 * best_of_all(machine, one.task)
    assert [now.best_ms for now in seen[2:]] == sorted((now.best_ms for now in seen[2:]), reverse=True)
    assert seen[-1].seconds_left == 0
    assert seen[-1].trials == seen[-1].of == 120


def test_every_time_is_in_the_file(tmp_path: Path) -> None:
    machine = MadeUp()
    tuner, _, _ = tune(tmp_path / "r", machine, 30)
    records = {(one.work, one.kernel): one.milliseconds for one in read_records(tmp_path / "r")}
    assert len(records) == 30
    for state in tuner.states:
        for kernel, ms in state.measured.items():
            assert records[kernel.work, kernel.name] == pytest.approx(ms, rel=1e-3)
            assert ms == pytest.approx(machine.truth(kernel) * 1e3, rel=1e-3)


def test_the_same_seed_tries_the_same(tmp_path: Path) -> None:
    names = []
    for index, seed in enumerate((1, 1, 2)):
        machine = MadeUp()
        tune(tmp_path / f"r{index}", machine, 36, seed)
        names.append(machine.loaded)
    assert names[0] == names[1] != names[2]


def test_it_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    path = tmp_path / "r"
    first, _, _ = tune(path, MadeUp(), 60, stop_after=25)
    kept = read_records(path)
    assert 25 <= len(kept) == first.trials < 60
    again = MadeUp()
    second, tuned, seen = tune(path, again, 60)
    assert seen[0].trials > len(kept)
    assert second.trials == 60 and len(tuned) == 2
    after = {one.key: one for one in read_records(path)}
    assert after.keys() >= {one.key for one in kept}
    # what was measured before is not measured again, but for the reference and in the last races
    third = MadeUp()
    tune(path, third, 60)
    assert len(third.loaded) <= 8


def test_a_machine_that_slows_down_spoils_no_record(tmp_path: Path) -> None:
    machine = MadeUp(slow=20)
    tuner, _, _ = tune(tmp_path / "r", machine, 40)
    assert len(machine.loaded) > 40
    for state in tuner.states[:1]:
        for kernel, ms in state.measured.items():
            assert ms == pytest.approx(machine.truth(kernel) * 1e3, rel=1e-3)


def test_tuned_is_never_slower_than_untuned_however_noisy(tmp_path: Path) -> None:
    for seed in range(2):
        machine = MadeUp(noise=0.8)
        _, tuned, _ = tune(tmp_path / f"r{seed}", machine, 36, seed)
        for one in tuned:
            kernels = {v.name: v for base in one.task.bases for v in base.variants()}
            assert machine.truth(kernels[one.best]) <= 1.02 * machine.truth(kernels[one.untuned])


def test_time_ends_it(tmp_path: Path) -> None:
    file = RecordsFile(tmp_path / "r")
    now = iter(range(0, 10**6, 10))
    tuner = Tuner(TASKS, MadeUp(), CPU, file, PLACE, untuned=ByRule(), clock=lambda: next(now))
    tuner.run(Budget(10**6, seconds=95))
    assert 0 < tuner.trials < 60


def test_it_ends_when_everything_is_measured(tmp_path: Path) -> None:
    small = [task("small", LinearWork(32, 32, BP(16, 5)))]
    tuner = Tuner(small, MadeUp(), CPU, RecordsFile(tmp_path / "r"), PLACE, untuned=ByRule())
    tuner.run(Budget(10**6))
    assert tuner.trials == len(tuner.states[0].variants)
