"""Tuning: measure settings of kernels, learn from the times which to try next, keep every record.

Batches go to the layers that take the most of the model's time and still gain. A batch is what the learned
model predicts to be the fastest, and some at random. Each batch is timed in turn with the layer's reference,
the kernel that would be taken without tuning; a record is the ratio to it, times the reference's own time, so
that a machine that slows down for a while spoils nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from espalier.schedules import LinearKernel, LinearWork
from espalier.schedules.estimate import Estimator
from espalier.search.estimate import ByRecords
from espalier.search.learn import Example, examples, learn
from espalier.search.measure import Machine, measure
from espalier.search.record_file import RecordsFile
from espalier.search.records import Place, Record, kernel_key
from espalier.targets.cpu import Cpu

BATCH = 6
RANDOM = 0.2
"""Share of a batch that is drawn at random."""
FIRST_WITHIN = 2.0
HOPELESS = 1.7
"""Kernels that much slower than the best so far are not tried: first by their own prediction, then by what
was learned."""
GAIN = 0.01
"""A batch that gains less lowers what is expected of the next one by half."""
RACERS = 3
RACE_ROUNDS = 15
MOST_RACES = 8
RETRAIN = 0.1
"""Share of new records that makes learning again worth it."""


@dataclass(frozen=True)
class Task:
    """Layers of a model that are one work: bases are the kernels for it, in every layout."""

    label: str
    bases: tuple[LinearKernel, ...]
    tokens: int
    count: float
    """Layers; how much its time counts."""

    @property
    def work(self) -> LinearWork:
        return self.bases[0].work

    def to_dict(self) -> dict[str, Any]:
        work = self.work
        return {
            "layer": self.label,
            "shape": f"{work.n}x{work.k}",
            "structure": work.structure.label(),
            "tokens": self.tokens,
            "layers": self.count,
            "kernels": sum(len(base.variants()) for base in self.bases),
        }


@dataclass(frozen=True)
class Budget:
    """When to stop: at so many kernels measured, earlier runs' included, or after so many seconds."""

    trials: int
    seconds: float = float("inf")


@dataclass(frozen=True)
class Progress:
    """How far tuning is; milliseconds are of all linear layers together."""

    trials: int
    of: int
    seconds_left: float
    untuned_ms: float
    best_ms: float
    task: str


Watch = Callable[[Progress], None]


@dataclass(frozen=True)
class Tuned:
    """What came out for one task."""

    task: Task
    trials: int
    untuned: str
    untuned_ms: float
    best: str
    best_ms: float

    def to_dict(self) -> dict[str, Any]:
        return {
            **self.task.to_dict(),
            "trials": self.trials,
            "untuned": {"kernel": self.untuned, "ms": self.untuned_ms},
            "best": {"kernel": self.best, "ms": self.best_ms},
        }


@dataclass
class _State:
    """A task in the making."""

    task: Task
    reference: LinearKernel
    variants: list[LinearKernel]
    measured: dict[LinearKernel, float] = field(default_factory=dict)
    interest: float = 1.0

    @property
    def best(self) -> LinearKernel:
        return min(self.measured, key=lambda kernel: (self.measured[kernel], kernel.name))

    @property
    def best_ms(self) -> float:
        return min(self.measured.values(), default=float("nan"))

    @property
    def reference_ms(self) -> float:
        return self.measured.get(self.reference, float("nan"))


class Tuner:
    """One run of tuning; what it finds is in the file as soon as it is known."""

    def __init__(
        self,
        tasks: Sequence[Task],
        machine: Machine,
        cpu: Cpu,
        file: RecordsFile,
        place: Place,
        *,
        untuned: Estimator,
        known: Sequence[Example] = (),
        seed: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """untuned: what chooses without tuning. known: examples to learn from besides the file's records."""
        self.machine, self.cpu, self.file, self.place, self.clock = machine, cpu, file, place, clock
        self.rng = np.random.default_rng(seed)
        self.seed = seed
        self.examples = [*known, *examples(file.records, cpu)]
        self.learned_from = 0
        self.model = ByRecords(cpu)
        there = {record.key: record.milliseconds for record in file.records}
        self.states = [self._state(task, untuned, there) for task in tasks]

    def _state(self, task: Task, untuned: Estimator, there: dict[tuple[object, ...], float]) -> _State:
        reference = untuned.estimates(task.bases, task.tokens, self.place.threads)[0].kernel
        variants = list(dict.fromkeys([reference, *(v for base in task.bases for v in base.variants())]))
        keys = {
            kernel: kernel_key(kernel, self.place.core, task.tokens, self.place.threads)
            for kernel in variants
        }
        measured = {kernel: there[key] for kernel, key in keys.items() if key in there}
        return _State(task, reference, variants, measured)

    @property
    def trials(self) -> int:
        """Kernels measured so far."""
        return sum(len(state.measured) for state in self.states)

    def run(
        self,
        budget: Budget,
        watch: Watch = lambda progress: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> list[Tuned]:
        """Tune within the budget, then settle each task against its reference; until `stop` says so."""
        started, before = self.clock(), self.trials
        while self.trials < budget.trials and self.clock() - started < budget.seconds and not stop():
            state = self._next()
            if state is None:
                break
            self._batch(state, budget.trials - self.trials)
            watch(self._progress(budget, started, before, state))
        for state in self.states:
            if not stop():
                self._settle(state)
        return [_tuned(state) for state in self.states if state.measured]

    def _next(self) -> _State | None:
        """The task from which most is to be expected."""
        fresh = [state for state in self.states if not state.measured]
        open_ = [state for state in self.states if len(state.measured) < len(state.variants)]
        if fresh:
            return fresh[0]
        return max(open_, key=lambda state: state.task.count * state.best_ms * state.interest, default=None)

    def _batch(self, state: _State, room: int) -> None:
        before = state.best_ms
        kernels = self._first(state) if not state.measured else self._chosen(state)
        self._measure(state, kernels[: max(room, 1)])
        if before == before and state.best_ms > (1 - GAIN) * before:
            state.interest /= 2

    def _first(self, state: _State) -> list[LinearKernel]:
        """The reference, the best dense kernel, and others that predict to be near the best."""
        tokens, threads = state.task.tokens, self.place.threads
        by_time = sorted(state.task.bases, key=lambda base: (base.milliseconds(tokens, threads), base.name))
        limit = FIRST_WITHIN * by_time[0].milliseconds(tokens, threads)
        dense = [base for base in by_time if "dense" in base.name][:1]
        near = [base for base in by_time if base.milliseconds(tokens, threads) <= limit]
        return list(dict.fromkeys([state.reference, *dense, *near]))

    def _chosen(self, state: _State) -> list[LinearKernel]:
        """The most promising kernels that are not measured yet, and some at random."""
        self._learn()
        left = [kernel for kernel in state.variants if kernel not in state.measured]
        times = self._predict(left, state.task.tokens)
        order = [left[i] for i in np.argsort(times, kind="stable")]
        hopeful = [left[i] for i in np.flatnonzero(times < HOPELESS * times.min())]
        chosen: dict[LinearKernel, None] = {}
        while len(chosen) < min(BATCH, len(left)):
            if self.rng.random() < RANDOM and len(chosen) < len(hopeful):
                chosen[hopeful[int(self.rng.integers(len(hopeful)))]] = None
            else:
                chosen[next(kernel for kernel in order if kernel not in chosen)] = None
        return list(chosen)

    def _predict(self, kernels: Sequence[LinearKernel], tokens: int) -> np.ndarray:
        return self.model.alone(kernels, tokens, self.place.threads)

    def _learn(self) -> None:
        if len(self.examples) - self.learned_from > RETRAIN * self.learned_from:
            self.model = ByRecords(self.cpu, trees=learn(self.examples, seed=self.seed))
            self.learned_from = len(self.examples)

    def _measure(self, state: _State, kernels: Sequence[LinearKernel], rounds: int | None = None) -> None:
        times = measure(self.machine, kernels, state.reference, state.task.tokens, rounds=rounds)
        scale = state.measured.get(state.reference, times[state.reference]) / times[state.reference]
        found = {kernel: ms * scale for kernel, ms in times.items()}
        records = [
            Record(self.place, kernel.work, state.task.tokens, kernel.name, kernel.version, ms)
            for kernel, ms in found.items()
            if kernel != state.reference or kernel not in state.measured
        ]
        self.file.add(records)
        state.measured |= found
        self.examples += examples(records, self.cpu)

    def _settle(self, state: _State) -> None:
        """Race the best with the reference, until the best of all was in the last race."""
        raced: set[LinearKernel] = set()
        for _ in range(MOST_RACES):
            if not state.measured or state.best == state.reference or state.best in raced:
                return
            order = sorted(state.measured, key=lambda kernel: (state.measured[kernel], kernel.name))
            raced = set(order[:RACERS])
            self._measure(state, order[:RACERS], RACE_ROUNDS)

    def _progress(self, budget: Budget, started: float, before: int, state: _State) -> Progress:
        begun = [each for each in self.states if each.measured]
        spent = self.clock() - started
        by_trials = spent / max(self.trials - before, 1) * (budget.trials - self.trials)
        return Progress(
            trials=self.trials,
            of=budget.trials,
            seconds_left=max(min(by_trials, budget.seconds - spent), 0.0),
            untuned_ms=sum(each.task.count * each.reference_ms for each in begun),
            best_ms=sum(each.task.count * each.best_ms for each in begun),
            task=state.task.label,
        )


def _tuned(state: _State) -> Tuned:
    return Tuned(
        state.task,
        len(state.measured),
        state.reference.name,
        state.reference_ms,
        state.best.name,
        state.best_ms,
    )
