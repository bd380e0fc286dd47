"""Tuning: from an ONNX file to records of its linear layers, and from records to what chooses kernels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from espalier.errors import RecordsError, StoppedError, UnavailableError, UsageError

if TYPE_CHECKING:
    from espalier.schedules.estimate import Estimator
    from espalier.search.measure import Machine
    from espalier.search.tune import Budget, Task, Tuned, Watch
    from espalier.targets.cpu import Cpu
    from espalier.targets.target import Target

TRIALS_A_TASK = 32
"""Kernels measured for each distinct layer, where the user gives no number."""


@dataclass(frozen=True)
class Tuning:
    """What tuning a model found."""

    records: Path
    target: str
    threads: int
    tasks: tuple[Tuned, ...]
    trials: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        return {
            "records": str(self.records),
            "target": self.target,
            "threads": self.threads,
            "tasks": [task.to_dict() for task in self.tasks],
            "trials": self.trials,
            "seconds": self.seconds,
        }


def estimator(cpu: Cpu, files: Sequence[Path]) -> Estimator:
    """What says how long kernels take on `cpu`: records of `files`, and what was learned from others.

    Raises DataError for files that are no records, RecordsError where they hold none for this core,
    UnavailableError without XGBoost where there is something to learn from them.
    """
    from espalier.search.estimate import ByRecords, measured_times
    from espalier.search.learn import examples, learn
    from espalier.search.record_file import read_records
    from espalier.search.shipped import shipped_records, shipped_trees

    if not files:
        return ByRecords(cpu, trees=shipped_trees(cpu.mcpu))
    records = [record for file in files for record in read_records(file)]
    own = [record for record in records if record.place.core == cpu.mcpu]
    if not own:
        cores = sorted({record.place.core for record in records})
        raise RecordsError(
            f"{', '.join(map(str, files))}: no record is for {cpu.mcpu}, they are for: "
            f"{', '.join(cores) or 'nothing'}",
            hint="run `espalier tune` for this target, or leave out --tuning-records",
        )
    trees = learn(examples([*shipped_records(cpu.mcpu), *own], cpu)) or shipped_trees(cpu.mcpu)
    return ByRecords(cpu, measured_times(own), trees)


def tune_onnx(
    model: Path,
    cpu: Cpu,
    records: Path,
    machine: Machine,
    *,
    input_shapes: Mapping[str, Sequence[int]] | None,
    max_shape: Mapping[str, Sequence[int]] | None,
    dtype: str,
    threads: int,
    trials: int | None,
    minutes: float | None,
    only: Sequence[int] | None,
    seed: int,
    watch: Watch,
    stop: Callable[[], bool],
) -> Tuning:
    """See `espalier.api.tune`."""
    import time

    from espalier.search.learn import examples
    from espalier.search.record_file import RecordsFile
    from espalier.search.records import Place
    from espalier.search.shipped import shipped_records
    from espalier.search.tune import Tuner

    started = time.monotonic()
    tasks = chosen(model_tasks(model, cpu, input_shapes, max_shape, dtype, threads), only)
    budget = _budget(len(tasks), trials, minutes)
    file = RecordsFile(records)
    tuner = Tuner(
        tasks,
        machine,
        cpu,
        file,
        Place(cpu.mcpu, cpu.clock_ghz, threads),
        untuned=estimator(cpu, ()),
        known=examples(shipped_records(cpu.mcpu), cpu),
        seed=seed,
    )
    try:
        tuned = tuner.run(budget, watch, stop)
    finally:
        file.close()
    if stop():
        raise StoppedError(
            f"interrupted; {tuner.trials} measured kernels are kept in {records}",
            hint="run the same command again to go on",
        )
    return Tuning(records, cpu.mcpu, threads, tuple(tuned), tuner.trials, time.monotonic() - started)


def _budget(tasks: int, trials: int | None, minutes: float | None) -> Budget:
    from espalier.search.tune import Budget

    if trials is None:
        trials = TRIALS_A_TASK * tasks if minutes is None else 10**9
    return Budget(trials, float("inf") if minutes is None else minutes * 60)


def model_tasks(
    model: Path,
    cpu: Cpu,
    input_shapes: Mapping[str, Sequence[int]] | None,
    max_shape: Mapping[str, Sequence[int]] | None,
    dtype: str,
    threads: int,
) -> list[Task]:
    """The distinct linear layers of a model, in the order in which they first come."""
    from espalier.compiler import _bounds, _signature
    from espalier.passes.choose import Question, questions
    from espalier.passes.frontend import import_model, read_model
    from espalier.passes.pipeline import PIPELINES
    from espalier.passes.state import State
    from espalier.search.records import kernel_key
    from espalier.search.tune import Task

    imported = import_model(read_model(model), input_shapes, max_shape)
    bounds = _bounds(imported)
    state = State(imported.mod, imported.weights, cpu, threads, dtype, bounds=bounds)
    if dtype == "int8":
        from espalier.passes.samples import samples

        state = replace(state, samples=samples(imported.mod, _signature(imported, bounds), None, 0.05))
    for step in PIPELINES[cpu.kind]:
        if step.name == "choose":
            break
        state = step.run(state)
    same: dict[tuple[object, ...], list[Question]] = {}
    for question in questions(state):
        keys = (kernel_key(base, cpu.mcpu, question.tokens, threads) for base in question.bases)
        same.setdefault(tuple(keys), []).append(question)
    return [Task(group[0].name, group[0].bases, group[0].tokens, len(group)) for group in same.values()]


def chosen(tasks: Sequence[Task], only: Sequence[int] | None) -> list[Task]:
    """The tasks with these numbers, from 0 on; all where none are named."""
    if only is None:
        return list(tasks)
    for number in only:
        if number >= len(tasks):
            raise UsageError(
                f"--tasks: there is no task {number}, the model has {len(tasks)}",
                hint="see `espalier tune MODEL.onnx --tasks list`",
            )
    return [tasks[number] for number in sorted(set(only))]


def cpu_of(target: Target | str | None, rpc_tracker: str | None) -> Cpu:
    """The CPU to tune for.

    Raises UsageError for a target that is no CPU, or where a machine far away is not described.
    """
    from espalier.targets.cpu import Cpu
    from espalier.targets.host import host
    from espalier.targets.parse import parse_target

    if target is None and rpc_tracker is not None:
        raise UsageError(
            "--rpc-tracker leads to another machine, but no --target says what it is",
            hint="name its target, for example --target icelake-server",
        )
    device = host() if target is None else parse_target(target) if isinstance(target, str) else target
    if not isinstance(device, Cpu):
        raise UsageError(
            f"target {device.name} of kind {device.kind!r} has no settings to tune",
            hint="tune for a CPU; `espalier devices` lists them",
        )
    return device


def machine_for(cpu: Cpu, threads: int, rpc_tracker: str | None, rpc_key: str | None) -> Machine:
    """Where to time kernels for `cpu`: here, or on the machine that the tracker knows by a key.

    Raises UnavailableError where this machine cannot run them or the other one cannot be reached.
    """
    from espalier.search.measure import Local
    from espalier.search.remote import connect
    from espalier.targets.host import why_not_here

    if (rpc_tracker is None) != (rpc_key is None):
        raise UsageError(
            "--rpc-tracker and --rpc-key go together", hint="give both: --rpc-tracker host:port --rpc-key K"
        )
    if rpc_tracker is not None and rpc_key is not None:
        return connect(cpu, threads, rpc_tracker, rpc_key)
    reason = why_not_here(cpu.arch, cpu.features)
    if reason:
        raise UnavailableError(
            f"kernels for {cpu.name} ({cpu.mcpu}) cannot be timed here: {reason}",
            hint="tune on such a machine, or reach one by --rpc-tracker and --rpc-key",
        )
    return Local(cpu, threads)
