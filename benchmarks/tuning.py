"""Gain and regret of tuning over trials: a layer of MiniLM at HP 90 % (2:4, B = 32), 128 tokens, one thread.

First every sparse kernel under every setting is measured (it can be stopped and goes on from WORK). Then
tuning is replayed on those times under several seeds, learning as it does, and compared with trying what
kernels predict of themselves and with trying at random. Regret is how much longer the kernel that was found
takes than the best of all that are measured.

    python benchmarks/tuning.py --work out/exhaustive.records --minutes 8
    python benchmarks/tuning.py --work out/exhaustive.records --replay --write
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

os.environ["TVM_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np

from espalier.bench.machine import this_machine
from espalier.schedules import Epilogue, LinearKernel, LinearWork, linear_candidates
from espalier.schedules.estimate import ByRule, Estimator
from espalier.search import learn, tune
from espalier.search.estimate import ByRecords
from espalier.search.measure import Local
from espalier.search.record_file import RecordsFile, read_records
from espalier.search.records import Place, kernel_key
from espalier.search.shipped import shipped_records, shipped_trees
from espalier.search.tune import Budget, Progress, Task, Tuner
from espalier.sparsity import HP
from espalier.targets.cpu import Cpu
from espalier.targets.host import host

ROOT = Path(__file__).resolve().parents[1]
TOKENS = 128
LAYERS = {"after attention, 384 x 384": ((384, 384), Epilogue(bias=True, residual=True))}
SHAPES = {shape for shape, _ in LAYERS.values()}
SEEDS = range(5)
MARKS = (6, 12, 18, 24, 36, 48, 72, 96)
"""Kernels measured."""
FOLDS = 4
STRATEGIES: dict[str, dict[str, object]] = {
    "learning, with what is shipped": {"RANDOM": tune.RANDOM},
    "learning from nothing": {"RANDOM": tune.RANDOM},
    "own predictions": {"learn": lambda *_, **__: None},
    "at random": {"learn": lambda *_, **__: None, "RANDOM": 1.0, "HOPELESS": float("inf")},
}
"""What is changed in espalier.search.tune."""


def tasks(cpu: Cpu) -> list[Task]:
    """LAYERS, each once."""
    found = []
    for label, (shape, epilogue) in LAYERS.items():
        works = [
            LinearWork(*shape, HP.for_sparsity(shape, 0.9), epilogue, layout)
            for layout in ("tiles", "tokens")
        ]
        # dense kernels take six times as long: to measure all of their settings tells nothing
        bases = tuple(
            kernel for work in works for kernel in linear_candidates(work, cpu) if "dense" not in kernel.name
        )
        found.append(Task(label, bases, TOKENS, 1))
    return found


def variants(task: Task) -> list[LinearKernel]:
    return [variant for base in task.bases for variant in base.variants()]


def among(task: Task, times: dict[LinearKernel, float]) -> dict[LinearKernel, float]:
    """The times of a task's kernels."""
    return {kernel: times[kernel] for kernel in variants(task) if kernel in times}


@dataclass(frozen=True)
class Recorded:
    """A machine that answers from the times measured before."""

    times: dict[LinearKernel, float]

    def load(self, kernel: LinearKernel, tokens: int) -> Callable[[int], float]:
        return lambda count: self.times[kernel] / 1e3


def measure(work: Path, minutes: float, cpu: Cpu) -> None:
    def tell(now: Progress) -> None:
        print(f"{now.trials} measured, {now.best_ms:.4f} ms", file=sys.stderr, flush=True)

    place = Place(cpu.mcpu, cpu.clock_ghz, 1)
    tuner = Tuner(tasks(cpu), Local(cpu, 1), cpu, RecordsFile(work), place, untuned=ByRule())
    with patch.multiple(tune, learn=lambda *_, **__: None, BATCH=24):
        tuner.run(Budget(10**9, minutes * 60), tell)
    total = sum(len(variants(task)) for task in tasks(cpu))
    print(f"{tuner.trials} of {total} measured", file=sys.stderr)


def times_of(work: Path, cpu: Cpu) -> dict[LinearKernel, float]:
    """The time of every kernel that is measured."""
    there = {record.key: record.milliseconds for record in read_records(work)}
    kernels = [variant for task in tasks(cpu) for variant in variants(task)]
    keys = {kernel: kernel_key(kernel, cpu.mcpu, TOKENS, 1) for kernel in kernels}
    return {kernel: there[key] for kernel, key in keys.items() if key in there}


def regrets(
    times: dict[LinearKernel, float], cpu: Cpu, seed: int, known: list[learn.Example]
) -> dict[int, float]:
    """Mean regret of LAYERS after each number of trials of MARKS. known: examples to begin with."""
    best = [min(among(task, times).values()) for task in tasks(cpu)]
    steps: list[tuple[int, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        file = RecordsFile(Path(folder) / "records")
        place = Place(cpu.mcpu, cpu.clock_ghz, 1)
        tuner = Tuner(tasks(cpu), Recorded(times), cpu, file, place, untuned=ByRule(), known=known, seed=seed)
        for state in tuner.states:
            state.variants = [kernel for kernel in state.variants if kernel in times]

        def watch(now: Progress) -> None:
            found = [min(state.measured.values(), default=np.inf) for state in tuner.states]
            ratios = [ms / least for ms, least in zip(found, best, strict=True)]
            steps.append((now.trials, float(np.mean(ratios)) - 1))

        tuner.run(Budget(MARKS[-1]), watch)
        file.close()
    return {mark: [regret for trials, regret in steps if trials <= mark][-1] for mark in MARKS}


def choice(estimator: Estimator, times: dict[LinearKernel, float], task: Task) -> str:
    """What an estimator takes without measuring, and its regret."""
    kernel = estimator.estimates(task.bases, TOKENS, 1)[0].kernel
    if kernel not in times:
        return f"{kernel.name} (not measured)"
    return f"{kernel.name} ({times[kernel] / min(among(task, times).values()) - 1:.1%})"


def report(times: dict[LinearKernel, float], cpu: Cpu) -> Iterator[str]:
    yield "# Tuning: gain and regret"
    yield ""
    yield from (__doc__ or "").strip().split("\n    python")[0].splitlines()
    yield ""
    yield "| layer | kernels | measured | best of all | ms | untuned ms | most that tuning can gain |"
    yield "|---|---|---|---|---|---|---|"
    for task in tasks(cpu):
        there = among(task, times)
        best = min(there, key=lambda kernel: (there[kernel], kernel.name))
        untuned = ByRule().estimates(task.bases, TOKENS, 1)[0].kernel
        gain = 1 - times[best] / times[untuned]
        cells = [
            task.label,
            len(variants(task)),
            len(there),
            best.name,
            f"{times[best]:.4f}",
            f"{times[untuned]:.4f}",
        ]
        yield f"| {' | '.join(map(str, cells))} | {gain:.1%} |"
    yield ""
    if len(times) < sum(len(variants(task)) for task in tasks(cpu)):
        yield "Not every kernel is measured: those are that tuning took for the most promising, a fifth at"
        yield "random. So the best of all may be better, and trying at random looks better than it is."
        yield ""
    yield "Regret of the choice without measuring anything:"
    yield ""
    yield "| layer | by the kernels' own predictions | by the learned model that is shipped |"
    yield "|---|---|---|"
    for task in tasks(cpu):
        cells = [
            choice(estimator, times, task)
            for estimator in (ByRule(), ByRecords(cpu, trees=shipped_trees(cpu.mcpu)))
        ]
        yield f"| {task.label} | {' | '.join(cells)} |"
    yield ""
    yield f"Regret over the number of kernels measured; mean of {len(SEEDS)} seeds (worst seed). Of what is"
    yield "shipped the records of this shape are left out."
    yield ""
    yield f"| trials | {' | '.join(map(str, MARKS))} |"
    yield "|---|" + "---|" * len(MARKS)
    shipped = learn.examples(shipped_records(cpu.mcpu), cpu)
    others = [one for one in shipped if (one.record.work.n, one.record.work.k) not in SHAPES]
    for name, changes in STRATEGIES.items():
        known = others if name.endswith("shipped") else []
        with patch.multiple(tune, **changes):
            runs = [regrets(times, cpu, seed, known) for seed in SEEDS]
        cells = [
            f"{np.mean([run[mark] for run in runs]):.1%} ({max(run[mark] for run in runs):.1%})"
            for mark in MARKS
        ]
        yield f"| {name} | {' | '.join(cells)} |"
    yield ""
    yield from transfer(cpu)
    yield ""
    yield this_machine(("apache-tvm", "xgboost-cpu")).line()


def transfer(cpu: Cpu) -> Iterator[str]:
    """How well layers are chosen for that nothing was learned from: shipped records, a quarter left out."""
    known = learn.examples(shipped_records(cpu.mcpu), cpu)
    layers = sorted({_layer(one) for one in known})
    order = np.random.default_rng(0).permutation(len(layers))
    errors: dict[str, list[float]] = {"own predictions": [], "learned": []}
    losses: dict[str, list[float]] = {name: [] for name in errors}
    for fold in range(FOLDS):
        left_out = {layers[i] for i in order[fold::FOLDS]}
        trees = learn.learn([one for one in known if _layer(one) not in left_out])
        estimators = {"own predictions": ByRecords(cpu), "learned": ByRecords(cpu, trees=trees)}
        for layer in left_out:
            there = [one for one in known if _layer(one) == layer]
            times = np.array([one.record.milliseconds for one in there])
            for name, estimator in estimators.items():
                kernels = [one.kernel for one in there]
                guesses = estimator.predict(kernels, there[0].record.tokens, 1)
                errors[name] += list(np.log(guesses / times))
                losses[name].append(times[_taken(kernels, guesses, cpu)] / times.min() - 1)
    yield f"Layers that nothing was learned from ({len(layers)} layers, {len(known)} records, {FOLDS} parts):"
    yield ""
    yield "| | deviation of log(predicted / measured) | loss against the best measured, mean | worst |"
    yield "|---|---|---|---|"
    for name, lost in losses.items():
        yield f"| {name} | {np.std(errors[name]):.3f} | {np.mean(lost):.1%} | {max(lost):.1%} |"


def _taken(kernels: list[LinearKernel], guesses: np.ndarray, cpu: Cpu) -> int:
    """Which kernel is chosen: of those with their own settings, where they were measured."""
    own = [place for place, kernel in enumerate(kernels) if kernel in linear_candidates(kernel.work, cpu)]
    return min(own or range(len(kernels)), key=lambda place: guesses[place])


def _layer(one: learn.Example) -> tuple[int, int, str, int]:
    work = one.record.work
    return work.n, work.k, work.structure.label(), one.record.tokens


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--replay", action="store_true")
    parser.add_argument("--write", action="store_true", help="also write docs/results/tuning.md")
    options = parser.parse_args()
    cpu = host()
    if not options.replay:
        measure(options.work, options.minutes, cpu)
        return
    lines = list(report(times_of(options.work, cpu), cpu))
    print("\n".join(lines))
    if options.write:
        (ROOT / "docs" / "results" / "tuning.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
