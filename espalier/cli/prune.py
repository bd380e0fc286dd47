"""`espalier prune`: prunes and retrains a model on a task."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from espalier.cli.options import (
    FILE,
    Choice,
    Count,
    Output,
    common,
    interruptible,
    output_option,
    threads_option,
)
from espalier.errors import UnavailableError, UsageError

if TYPE_CHECKING:
    from espalier.pruning.pipeline import PruneResult


@click.command(short_help="Prune and retrain a model on a task.")
@click.argument("what", metavar="[MODEL_OR_TASK]", required=False)
@click.option("--task", metavar="NAME", help="digits, wikitext-2, sst-2, sts-b, or another task of GLUE.")
@click.option("--data", metavar="DIR", type=FILE, help="Folder of the task's files (digits needs none).")
@click.option(
    "--structure",
    default="hp",
    metavar="hp|bp|pp|bp+pp|nm|block|unstructured",
    help='With parameters if wanted: "hp(B=32,v=4,n=2,g=4)". Default: hp.',
)
@click.option(
    "--sparsity", type=float, default=0.9, metavar="S", help="Share of weights to prune. Default: 0.9."
)
@click.option(
    "--method",
    type=Choice("gradual", "layerwise", "one-shot", "lasso", "admm"),
    default="layerwise",
    help="How the zeros come about. Default: layerwise.",
)
@click.option(
    "--criterion",
    type=Choice("magnitude", "wanda", "movement", "reconstruction"),
    help="Which weights matter. Default: reconstruction for layerwise, magnitude for others.",
)
@click.option(
    "--allocation",
    type=Choice("uniform", "sensitivity"),
    default="uniform",
    help="The same sparsity everywhere, or more where it hurts less. Default: uniform.",
)
@click.option(
    "--distil",
    type=float,
    default=0.7,
    metavar="W",
    help="Weight of the dense model's loss, 0 to 1. Default: 0.7.",
)
@click.option(
    "--steps", type=Count(1, 10**8), help="Batches of pruning and retraining. Default: the task's own."
)
@click.option("--rate", type=float, metavar="R", help="Peak learning rate. Default: the task's own.")
@click.option(
    "--leave", multiple=True, metavar="NAME", help="A layer to leave dense (* and ? allowed); repeatable."
)
@click.option("--heads", is_flag=True, help="Prune also the heads, which the task leaves dense.")
@click.option("--embeddings", is_flag=True, help="Prune also the embeddings.")
@click.option("--seed", type=Count(0, 2**32 - 1), default=0, help="Decides all randomness. Default: 0.")
@click.option("--dense-steps", type=Count(1, 10**8), help="Batches of the dense model's own training.")
@click.option(
    "--dense", type=FILE, metavar="FILE.pt", help="Where the dense weights are kept, or read from if there."
)
@output_option("OUT.onnx", "The pruned model; OUT.json goes beside it. Default: TASK-STRUCTURE.onnx here.")
@threads_option
@common
def command(
    what: str | None,
    task: str | None,
    data: Path | None,
    structure: str,
    sparsity: float,
    method: str,
    criterion: str | None,
    allocation: str,
    distil: float,
    steps: int | None,
    rate: float | None,
    dense_steps: int | None,
    leave: tuple[str, ...],
    heads: bool,
    embeddings: bool,
    seed: int,
    dense: Path | None,
    path: Path | None,
    threads: int | None,
    output: Output,
) -> None:
    """Trains a task's dense model, prunes it, retrains it against the dense one, and writes ONNX and JSON.

    MODEL_OR_TASK is a task, or with --task the folder of a Hugging Face encoder. A run that was stopped goes
    on where it was when the same command is run again, with the same result on one thread.
    """
    name, folder = _task_and_model(what, task)
    _require_torch()
    import torch

    from espalier.files import check_output
    from espalier.pruning.pipeline import PruneOptions, prune_task
    from espalier.pruning.tasks import open_task

    torch.set_num_threads(threads or 1)
    options = PruneOptions(
        structure=structure,
        sparsity=sparsity,
        method=method,
        criterion=criterion,
        allocation=allocation,
        distil=distil,
        steps=steps,
        rate=rate,
        dense_steps=dense_steps,
        seed=seed,
        leave=leave,
        heads=heads,
        embeddings=embeddings,
    )
    opened = open_task(name, data=data, model=folder)
    written = path or Path(f"{name}-{structure.partition('(')[0].replace('+', '')}.onnx")
    for file in (written, written.with_suffix(".json"), *filter(None, [dense])):
        check_output(file)
    with interruptible() as stop, _progress(opened.metric, output) as watch:
        result = prune_task(opened, options, written, dense=dense, watch=watch, stop=stop)
    output.note(f"wrote {written} and {written.with_suffix('.json')}")
    output.show(
        {"model": str(written), **result.to_dict()}, lambda: _print_result(result, opened.metric, output)
    )


def _task_and_model(what: str | None, task: str | None) -> tuple[str, Path | None]:
    """The name of the task and the folder of a model from the argument and --task."""
    if what is None and task is None:
        raise UsageError("no task is given", hint="try `espalier prune --task digits`")
    if task is None:
        assert what is not None
        if Path(what).exists():
            raise UsageError(
                f"{what} is a model, but no task says how to retrain it",
                hint="add --task, for example --task sst-2",
            )
        return what, None
    return task, None if what is None or what == task else Path(what)


def _require_torch() -> None:
    try:
        import torch  # noqa: F401
    except ModuleNotFoundError:
        raise UnavailableError(
            "torch, which pruning needs, is not installed", hint='pip install "tvm-espalier[train]"'
        ) from None


class _Bar:
    """A Watch that draws one bar a stage on a terminal."""

    def __init__(self, progress: Any, metric: str) -> None:
        self.progress, self.metric = progress, metric
        self.tasks: dict[str, Any] = {}
        self.text = ""

    def step(self, stage: str, step: int, steps: int, loss: float) -> None:
        if stage not in self.tasks:
            self.tasks[stage] = self.progress.add_task(stage, total=steps, loss="", figure="")
        self.progress.update(self.tasks[stage], completed=step, loss=f"loss {loss:.3f}", figure=self.text)

    def figures(self, stage: str, figures: dict[str, float]) -> None:
        self.text = f"{stage} {self.metric} {figures[self.metric]:.3f}"


@contextmanager
def _progress(metric: str, output: Output) -> Iterator[Any]:
    """What watches the training: a bar on a terminal, nothing otherwise."""
    from espalier.pruning.train import Silent

    if output.quiet or output.json or not sys.stderr.isatty():
        yield Silent()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}  {task.fields[loss]}  {task.fields[figure]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield _Bar(progress, metric)


def _print_result(result: PruneResult, metric: str, output: Output) -> None:
    output.table(
        ("weight", "shape", "structure", "sparsity"),
        [
            [layer.name, "x".join(map(str, layer.shape)), layer.structure, f"{100 * layer.sparsity:.1f} %"]
            for layer in result.layers
        ],
    )
    click.echo()
    names = list(result.metric["dense"])
    output.table(
        ("", *names),
        [
            [stage.replace("_", "-"), *(figures[name] for name in names)]
            for stage, figures in result.metric.items()
        ],
    )
    seconds = result.seconds
    click.echo(
        f"\n{100 * result.sparsity['pruned_layers']:.1f} % of the pruned layers are zeros, "
        f"{100 * result.sparsity['all_weights']:.1f} % of all weights; "
        f"{metric} {result.metric['dense'][metric]:.4f} dense, {result.metric['retrained'][metric]:.4f} "
        f"pruned; "
        f"{seconds['dense'] + seconds['prune']:.0f} s"
    )
