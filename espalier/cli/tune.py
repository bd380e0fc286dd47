"""`espalier tune`: finds the fastest settings of a model's kernels by measuring."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from espalier.api import DTYPES
from espalier.cli.options import (
    Choice,
    Count,
    Output,
    Shapes,
    common,
    input_shapes_option,
    interruptible,
    max_shape_option,
    model_argument,
    output_option,
    target_option,
    threads_option,
)
from espalier.errors import UsageError
from espalier.files import check_output, check_overwrite

if TYPE_CHECKING:
    from espalier.search.tune import Progress
    from espalier.targets.target import Target
    from espalier.tuning import Tuning

COLUMNS = ("layer", "shape", "structure", "tokens", "layers", "tried", "kernel", "ms", "untuned ms", "gain")
TASKS = ("task", "layer", "shape", "structure", "tokens", "layers", "kernels")


class Minutes(click.ParamType):
    """A positive number."""

    name = "minutes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            minutes = float(value)
        except ValueError:
            minutes = 0.0
        if not 0 < minutes < 1e6:
            raise UsageError(
                f"--minutes: got {value!r}, expected a positive number", hint="for example --minutes 10"
            )
        return minutes


class Tasks(click.ParamType):
    """`list`, or numbers and ranges separated by commas: `0,3-5`."""

    name = "tasks"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "list" or not isinstance(value, str):
            return value
        numbers: list[int] = []
        for part in value.split(","):
            first, dash, last = part.strip().partition("-")
            ends = (first, last if dash else first)
            sound = all(end.isascii() and end.isdigit() and len(end) < 6 for end in ends)
            if not sound or int(ends[0]) > int(ends[1]):
                raise UsageError(
                    f"--tasks: got {value!r}, expected `list` or numbers", hint="for example --tasks 0,3-5"
                )
            numbers += range(int(ends[0]), int(ends[1]) + 1)
        return tuple(numbers)


@click.command(short_help="Find the fastest kernels for a model by measuring.")
@model_argument
@output_option("RECORDS", "Where times are kept. Default: the model's name with .records, in this folder.")
@target_option
@input_shapes_option
@max_shape_option
@click.option("--dtype", type=Choice(*DTYPES), default=DTYPES[0], help="Data type of the kernels.")
@threads_option
@click.option(
    "--trials",
    metavar="N",
    type=Count(1, 10**7),
    help="Kernels to measure, those in RECORDS included. Default: 32 for each distinct layer.",
)
@click.option("--minutes", metavar="M", type=Minutes(), help="Stop after so long.")
@click.option("--tasks", metavar="list|0,3-5", type=Tasks(), help="List the distinct layers, or tune some.")
@click.option(
    "--seed", type=Count(0, 2**32 - 1), default=0, help="Decides what is tried at random. Default: 0."
)
@click.option("--rpc-tracker", metavar="HOST:PORT", help="TVM's RPC tracker, to measure on another machine.")
@click.option("--rpc-key", metavar="K", help="The key of that machine.")
@common
def command(
    model: Path,
    path: Path | None,
    target: Target | None,
    input_shapes: Shapes | None,
    max_shape: Shapes | None,
    dtype: str,
    threads: int | None,
    trials: int | None,
    minutes: float | None,
    tasks: str | tuple[int, ...] | None,
    seed: int,
    rpc_tracker: str | None,
    rpc_key: str | None,
    output: Output,
) -> None:
    """Measures kernels for the linear layers of MODEL.onnx, learning which are worth a try.

    Every time is kept in RECORDS at once: stop whenever you like, and run the same command to go on.
    `espalier compile --tuning-records RECORDS` uses them.
    """
    from espalier import api

    shapes = {"input_shapes": input_shapes, "max_shape": max_shape}
    if isinstance(tasks, str):
        listed = api.tuning_tasks(model, target=target, dtype=dtype, threads=threads, **shapes)
        output.show({"tasks": listed}, lambda: _print_tasks(listed, output))
        return
    path = path or Path(f"{model.stem}.records")
    check_output(path)
    check_overwrite(path, model)
    with interruptible() as stop, _progress(output) as watch:
        done = api.tune(
            model,
            path,
            target=target,
            dtype=dtype,
            threads=threads,
            trials=trials,
            minutes=minutes,
            tasks=tasks,
            seed=seed,
            rpc_tracker=rpc_tracker,
            rpc_key=rpc_key,
            watch=watch,
            stop=stop,
            **shapes,
        )
    output.note(f"wrote {path}")
    output.show(done.to_dict(), lambda: _print(done, output))


@contextmanager
def _progress(output: Output) -> Iterator[Callable[[Progress], None]]:
    """What watches tuning: a bar on a terminal, nothing otherwise."""
    if output.quiet or output.json or not sys.stderr.isatty():
        yield lambda progress: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (TextColumn("tuning"), BarColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True)) as bar:
        line = bar.add_task("compiling the first kernels", total=None)
        yield lambda now: bar.update(line, completed=now.trials, total=now.of, description=progress_text(now))


def progress_text(now: Progress) -> str:
    """Kernels so far, the best so far against untuned, time left."""
    minutes, seconds = divmod(round(now.seconds_left), 60)
    gain = 100 * (1 - now.best_ms / now.untuned_ms)
    return (
        f"{now.trials} kernels  best {now.best_ms:.3f} ms, {gain:.1f} % under {now.untuned_ms:.3f} ms  "
        f"{minutes}:{seconds:02d} left  {now.task}"
    )


def _print(done: Tuning, output: Output) -> None:
    rows = [
        [
            one.task.label,
            f"{one.task.work.n}x{one.task.work.k}",
            one.task.work.structure.label(),
            one.task.tokens,
            one.task.count,
            one.trials,
            one.best,
            one.best_ms,
            one.untuned_ms,
            f"{100 * (1 - one.best_ms / one.untuned_ms):.1f} %",
        ]
        for one in done.tasks
    ]
    output.table(COLUMNS, rows)
    untuned = sum(one.task.count * one.untuned_ms for one in done.tasks)
    best = sum(one.task.count * one.best_ms for one in done.tasks)
    click.echo(
        f"\nlinear layers together: {best:.4g} ms, untuned {untuned:.4g} ms; {done.trials} kernels measured "
        f"for {done.target} on {done.threads} thread(s), {done.seconds:.0f} s"
    )


def _print_tasks(listed: list[dict[str, Any]], output: Output) -> None:
    output.table(TASKS, [[one[name] for name in TASKS] for one in listed])
