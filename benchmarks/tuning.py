"""Gain and regret of tuning over trials: MiniLM's layers at HP 90 % (2:4, B = 32), 128 tokens, one thread.

First the sparse kernels of all four kinds of layers are measured under their settings. Then tuning is
replayed on those times under several seeds, learning as it does, and compared with trying what kernels
predict of themselves and with trying at random. Regret is how much longer the four layers take together
with the kernels that were found than with the best of all that are measured; gain is how much less than
untuned. Query, key and value are one layer here; the compiler keeps them as the three that they are in ONNX.

All steps can be stopped and go on. --prepare compiles, so that measuring keeps the machine for less long;
what it has not come to is not measured.

    python benchmarks/tuning.py --work out/tuning.records --prepare
    python benchmarks/tuning.py --work out/tuning.records --minutes 4
    python benchmarks/tuning.py --work out/tuning.records --replay --write
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np

from espalier.bench.machine import this_machine
from espalier.runtime.threads import set_threads
from espalier.schedules import Epilogue, LinearKernel, LinearWork, linear_candidates
from espalier.schedules.estimate import ByRule, Estimator
from espalier.search import learn, tune
from espalier.search.estimate import ByRecords
from espalier.search.measure import ENTRY, arguments_of, build, timed
from espalier.search.record_file import RecordsFile, read_records
from espalier.search.records import Place, kernel_key
from espalier.search.shipped import shipped_records, shipped_trees
from espalier.search.tune import Budget, Progress, Task, Tuner
from espalier.sparsity import HP
from espalier.targets.cpu import Cpu
from espalier.targets.host import host

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "results" / "tuning.md"
TOKENS = 128
LAYERS = {
    "query, key and value, 1152 x 384": ((1152, 384), Epilogue(bias=True)),
    "after attention, 384 x 384": ((384, 384), Epilogue(bias=True, residual=True)),
    "up, 1536 x 384": ((1536, 384), Epilogue(bias=True, activation="gelu")),
    "down, 384 x 1536": ((384, 1536), Epilogue(bias=True, residual=True)),
}
SHAPES = {shape for shape, _ in LAYERS.values()}
REPEATED = 6
"""Times that each of them is in the model."""
SEEDS = range(5)
MARKS = (32, 48, 64, 96, 128, 192, 256)
"""Kernels measured, of all layers together."""
FOLDS = 4
STRATEGIES: dict[str, dict[str, object]] = {
    "learning, with what is shipped": {"RANDOM": tune.RANDOM},
    "learning from nothing": {"RANDOM": tune.RANDOM},
    "own predictions": {"learn": lambda *_, **__: None},
    "at random": {"learn": lambda *_, **__: None, "RANDOM": 1.0, "HOPELESS": float("inf")},
}
"""What is changed in espalier.search.tune."""

Times = dict[LinearKernel, float]


def tasks(cpu: Cpu) -> list[Task]:
    """LAYERS."""
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
        found.append(Task(label, bases, TOKENS, REPEATED))
    return found


def variants(task: Task) -> list[LinearKernel]:
    return [variant for base in task.bases for variant in base.variants()]


def among(task: Task, times: Times) -> Times:
    """The times of a task's kernels."""
    return {kernel: times[kernel] for kernel in variants(task) if kernel in times}


@dataclass(frozen=True)
class Prepared:
    """This machine, one thread, with kernels that were compiled before, a file each."""

    folder: Path
    cpu: Cpu

    def path(self, kernel: LinearKernel) -> Path:
        work = kernel.work
        text = f"{kernel.name} {kernel.version} {work}"
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.so"

    def prepare(self, kernel: LinearKernel) -> Path:
        path = self.path(kernel)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_suffix(".part.so")
            build(kernel, self.cpu).export_library(str(unfinished))
            unfinished.rename(path)
        return path

    def load(self, kernel: LinearKernel, tokens: int) -> Callable[[int], float]:
        import tvm

        set_threads(1)
        call = tvm.runtime.load_module(str(self.prepare(kernel)))[ENTRY]
        return timed(call, arguments_of(kernel, tokens, tvm.runtime.tensor), threads=1)


@dataclass(frozen=True)
class Recorded:
    """A machine that answers from the times measured before."""

    times: Times

    def load(self, kernel: LinearKernel, tokens: int) -> Callable[[int], float]:
        return lambda count: self.times[kernel] / 1e3


def prepare(machine: Prepared) -> None:
    """Compiles in a random order, so that a part of it is a fair part."""
    everything = [variant for task in tasks(machine.cpu) for variant in variants(task)]
    own = [base for task in tasks(machine.cpu) for base in task.bases]
    np.random.default_rng(0).shuffle(everything)  # type: ignore[arg-type]
    for index, kernel in enumerate([*own, *everything]):
        machine.prepare(kernel)
        if index % 50 == 49:
            print(f"{index + 1} of {len(everything)} compiled", file=sys.stderr, flush=True)


def measure(work: Path, minutes: float, machine: Prepared) -> None:
    def tell(now: Progress) -> None:
        print(f"{now.trials} measured, {now.best_ms:.4f} ms", file=sys.stderr, flush=True)

    cpu = machine.cpu
    place = Place(cpu.mcpu, cpu.clock_ghz, 1)
    tuner = Tuner(tasks(cpu), machine, cpu, RecordsFile(work), place, untuned=ByRule())
    for state in tuner.states:
        state.variants = [kernel for kernel in state.variants if machine.path(kernel).exists()]
    with patch.multiple(tune, learn=lambda *_, **__: None, BATCH=24):
        tuner.run(Budget(10**9, minutes * 60), tell)
    total = sum(len(variants(task)) for task in tasks(cpu))
    print(f"{tuner.trials} of {total} measured", file=sys.stderr)


def times_of(work: Path, cpu: Cpu) -> Times:
    """The time of every kernel that is measured."""
    there = {record.key: record.milliseconds for record in read_records(work)}
    kernels = [variant for task in tasks(cpu) for variant in variants(task)]
    keys = {kernel: kernel_key(kernel, cpu.mcpu, TOKENS, 1) for kernel in kernels}
    return {kernel: there[key] for kernel, key in keys.items() if key in there}


def best_ms(times: Times, cpu: Cpu) -> float:
    """Of the linear layers together."""
    return sum(task.count * min(among(task, times).values()) for task in tasks(cpu))


def untuned_ms(times: Times, cpu: Cpu) -> float:
    """Of the linear layers together, as they are chosen without records."""
    choose = ByRecords(cpu, trees=shipped_trees(cpu.mcpu))
    return sum(task.count * times[_choice(choose, task)] for task in tasks(cpu))


def found_ms(times: Times, cpu: Cpu, seed: int, known: list[learn.Example]) -> dict[int, float]:
    """Of the linear layers together after each number of trials of MARKS. known: examples to begin with."""
    steps: list[tuple[int, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        file = RecordsFile(Path(folder) / "records")
        place = Place(cpu.mcpu, cpu.clock_ghz, 1)
        tuner = Tuner(tasks(cpu), Recorded(times), cpu, file, place, untuned=ByRule(), known=known, seed=seed)
        for state in tuner.states:
            state.variants = [kernel for kernel in state.variants if kernel in times]

        def watch(now: Progress) -> None:
            if all(state.measured for state in tuner.states):
                steps.append((now.trials, now.best_ms))

        tuner.run(Budget(MARKS[-1]), watch)
        file.close()
    return {mark: [ms for trials, ms in steps if trials <= mark][-1] for mark in MARKS}


def _choice(estimator: Estimator, task: Task) -> LinearKernel:
    """What is taken without measuring."""
    return estimator.estimates(task.bases, TOKENS, 1)[0].kernel


def replays(times: Times, cpu: Cpu) -> dict[str, list[dict[int, float]]]:
    """`found_ms` of each strategy and seed."""
    shipped = learn.examples(shipped_records(cpu.mcpu), cpu)
    others = [one for one in shipped if (one.record.work.n, one.record.work.k) not in SHAPES]
    found = {}
    for name, changes in STRATEGIES.items():
        known = others if name.endswith("shipped") else []
        with patch.multiple(tune, **changes):
            found[name] = [found_ms(times, cpu, seed, known) for seed in SEEDS]
        print(f"replayed {name}", file=sys.stderr, flush=True)
    return found


def report(times: Times, found: dict[str, list[dict[int, float]]], cpu: Cpu) -> Iterator[str]:
    yield "# Tuning: gain and regret"
    yield ""
    yield from (__doc__ or "").strip().split("\n\nAll steps")[0].splitlines()
    yield ""
    yield from _layers(times, cpu)
    yield ""
    total = sum(len(variants(task)) for task in tasks(cpu))
    if len(times) < total:
        yield f"{len(times)} of {total} kernels are measured, drawn at random; the best of all may be better."
        yield ""
    yield f"Regret over the number of kernels measured; mean of {len(SEEDS)} seeds (worst seed). Of what is"
    yield "shipped the records of these shapes are left out."
    yield ""
    yield from _table(found, lambda ms: ms / best_ms(times, cpu) - 1)
    yield ""
    yield "Gain: how much less time the layers take than untuned, of which the best of all would gain"
    yield f"{1 - best_ms(times, cpu) / untuned_ms(times, cpu):.1%}; mean of the seeds (worst seed)."
    yield ""
    yield from _table(found, lambda ms: 1 - ms / untuned_ms(times, cpu), worst=min)
    yield ""
    yield "![regret over trials](tuning.svg)"
    yield ""
    yield from transfer(cpu)
    yield ""
    yield this_machine(("apache-tvm", "xgboost-cpu")).line()


def _layers(times: Times, cpu: Cpu) -> Iterator[str]:
    """What there is to gain, and the regret of choosing without a measurement."""
    yield "What is chosen without measuring, and its regret: by the kernels' own predictions, and by the"
    yield "learned model that is shipped."
    yield ""
    yield "| layer | kernels | best of all | ms | own predictions | shipped |"
    yield "|---|---|---|---|---|---|"
    for task in tasks(cpu):
        there = among(task, times)
        best = min(there, key=lambda kernel: (there[kernel], kernel.name))
        cells = [task.label, len(there), best.name, f"{there[best]:.4f}"]
        for estimator in (ByRule(), ByRecords(cpu, trees=shipped_trees(cpu.mcpu))):
            kernel = _choice(estimator, task)
            cells.append(f"{kernel.name} ({times[kernel] / there[best] - 1:.1%})")
        yield f"| {' | '.join(map(str, cells))} |"


def _table(
    found: dict[str, list[dict[int, float]]],
    share: Callable[[float], float],
    worst: Callable[[Sequence[float]], float] = max,
) -> Iterator[str]:
    yield f"| trials | {' | '.join(map(str, MARKS))} |"
    yield "|---|" + "---|" * len(MARKS)
    for name, runs in found.items():
        each = [[share(run[mark]) for run in runs] for mark in MARKS]
        cells = [f"{np.mean(shares):.1%} ({worst(shares):.1%})" for shares in each]
        yield f"| {name} | {' | '.join(cells)} |"


def plot(found: dict[str, list[dict[int, float]]], least: float, path: Path) -> None:
    """Regret over trials: the mean of the seeds, and from the best to the worst."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "espalier"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    for name, runs in found.items():
        each = np.array([[100 * (run[mark] / least - 1) for run in runs] for mark in MARKS])
        axes.fill_between(MARKS, each.min(1), each.max(1), alpha=0.15)
        axes.plot(MARKS, each.mean(1), "o-", markersize=3, label=name)
    axes.set(
        xscale="log",
        xlabel="kernels measured",
        ylabel="regret, %",
        title="Tuning the layers of MiniLM, HP 90 %",
    )
    axes.set_xticks(MARKS, list(map(str, MARKS)))
    axes.set_xticks([], minor=True)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")
    pyplot.close(figure)


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
                guesses = estimator.alone(kernels, there[0].record.tokens, 1)
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
    parser.add_argument("--prepare", action="store_true", help="compile all kernels into WORK.so/")
    parser.add_argument("--replay", action="store_true")
    parser.add_argument("--write", action="store_true", help="also write docs/results/tuning.md")
    options = parser.parse_args()
    cpu = host()
    machine = Prepared(options.work.with_name(f"{options.work.name}.so"), cpu)
    if options.prepare:
        prepare(machine)
    elif not options.replay:
        measure(options.work, options.minutes, machine)
    else:
        times = times_of(options.work, cpu)
        found = replays(times, cpu)
        lines = list(report(times, found, cpu))
        print("\n".join(lines))
        if options.write:
            PAGE.write_text("\n".join(lines) + "\n")
            plot(found, best_ms(times, cpu), PAGE.with_suffix(".svg"))


if __name__ == "__main__":
    main()
