"""From a task to a pruned ONNX model and the JSON that tells how it was made: what `espalier prune` runs."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from espalier.errors import UsageError, unknown
from espalier.pruning.allocation import allocate_sparsity
from espalier.pruning.criteria import CRITERIA, Criterion, Magnitude, has_inputs
from espalier.pruning.distil import Lessons
from espalier.pruning.export import export_onnx
from espalier.pruning.families import parse_family
from espalier.pruning.layers import prunable_layers
from espalier.pruning.layerwise import Layerwise
from espalier.pruning.methods import Admm, Gradual, GroupLasso, Method, lasso_groups, one_shot
from espalier.pruning.pruner import LayerReport, Pruner
from espalier.pruning.schedules import Cubic
from espalier.pruning.tasks.task import Task
from espalier.pruning.train import Checkpoint, Settings, Silent, Watch, train

Samples = Callable[[], Sequence[tuple[torch.Tensor, ...]]]

METHODS: dict[str, Callable[[int, nn.Module, Samples], Method]] = {
    "one-shot": lambda steps, *_: one_shot(min(steps, 20)),
    "layerwise": lambda _, model, samples: Layerwise(model, samples()),
    "gradual": lambda steps, *_: Gradual(Cubic(0, steps, every=max(steps // 25, 1))),
    "lasso": lambda steps, *_: GroupLasso(steps, every=max(steps // 10, 1)),
    "admm": lambda steps, *_: Admm(steps, every=max(steps // 10, 1)),
}
"""Each method for a number of steps until the masks stand, a model, and inputs of training data for it."""

CALIBRATION = 8
"""Training batches that `layerwise` looks at."""

TRIALS = 2
"""Training batches on which sensitivity is measured."""

ALLOCATIONS = ("uniform", "sensitivity")

TRIAL_SHAPE = (1200, 1200)
"""A weight on which options are tried before any training; a multiple of every usual block."""


@dataclass(frozen=True)
class PruneOptions:
    """What `espalier prune` is asked.

    criterion: None for the method's own. steps, rate, dense_steps: None for the task's own. pruned_by: share
    of the steps after which the masks stand; the rest retrains. distil: share of the dense model's loss.
    heads, embeddings: whether to prune the layers that the task leaves alone, and embeddings.
    """

    structure: str = "hp"
    sparsity: float = 0.9
    method: str = "layerwise"
    criterion: str | None = None
    allocation: str = "uniform"
    distil: float = 0.7
    steps: int | None = None
    rate: float | None = None
    dense_steps: int | None = None
    pruned_by: float = 0.5
    seed: int = 0
    leave: tuple[str, ...] = ()
    heads: bool = False
    embeddings: bool = False

    def __post_init__(self) -> None:
        family = parse_family(self.structure)
        if self.criterion is None:
            natural = "reconstruction" if self.method == "layerwise" else "magnitude"
            object.__setattr__(self, "criterion", natural)
        for what, value, known in (
            ("method", self.method, METHODS),
            ("criterion", self.criterion, CRITERIA),
            ("allocation", self.allocation, ALLOCATIONS),
        ):
            if value not in known:
                raise UsageError(f"{what} {value!r} is unknown", hint=unknown(f"a {what}", str(value), known))
        for what, value in (("distil", self.distil), ("pruned_by", self.pruned_by)):
            if not 0.0 <= value <= 1.0:
                raise UsageError(
                    f"{what} is {value:g}, expected from 0 to 1",
                    hint="it is a share; give a value from 0 to 1",
                )
        if self.rate is not None and not 0.0 < self.rate < 10.0:
            raise UsageError(f"rate is {self.rate:g}, expected above 0", hint="give for example --rate 5e-4")
        if not 0.0 < self.sparsity < 1.0:
            raise UsageError(
                f"sparsity is {self.sparsity:g}, expected between 0 and 1",
                hint="give for example --sparsity 0.9",
            )
        structure = family.at(TRIAL_SHAPE, self.sparsity)
        nearest = structure.sparsity(TRIAL_SHAPE)
        if abs(nearest - self.sparsity) > 0.05:
            raise UsageError(
                f"structure {self.structure} cannot be pruned to {self.sparsity:g}, "
                f"the nearest is {nearest:.3g}",
                hint=f"give --sparsity {nearest:.3g}, or other parameters of the structure, like nm(v=16)",
            )
        if self.method == "layerwise" and self.criterion == "movement":
            raise UsageError(
                "criterion movement needs gradients, which method layerwise has none of",
                hint="add --method gradual, or choose another --criterion",
            )
        if self.method == "lasso":
            try:
                lasso_groups(structure)
            except ValueError as error:
                raise UsageError(str(error), hint="choose another --structure or --method") from None


@dataclass(frozen=True)
class PruneResult:
    """What came of it.

    metric: figures of the dense model; pruned in one shot (by magnitude, or by the method itself where that
    prunes before training); and retrained.
    sparsity: {"wanted", "pruned_layers", "all_weights"}, the latter two fractions of exact zeros.
    steps: batches of {"dense", "prune"}. onnx_error: largest difference of ONNX Runtime from torch, relative
    to the largest output; None where nothing was exported.
    """

    task: str
    options: PruneOptions
    layers: tuple[LayerReport, ...]
    sparsity: dict[str, float]
    metric: dict[str, dict[str, float]]
    steps: dict[str, int]
    seconds: dict[str, float]
    versions: dict[str, str]
    onnx_error: float | None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def prune_task(
    task: Task,
    options: PruneOptions,
    output: Path,
    *,
    dense: Path | None = None,
    share: bool = False,
    evaluations: int = 5,
    export: bool = True,
    watch: Watch | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> PruneResult:
    """Train or load the dense model, prune and retrain a copy, write `output` (ONNX) and its JSON beside it.

    dense: file of the dense weights, read where it exists and written otherwise (default: beside the output).
    export: whether to write ONNX at all; without it only the JSON is left.
    evaluations: how many times `watch` is told the figures during training.
    share: keep what the dense model said to each batch beside its file, for more runs from the same one.
    A run that was stopped goes on from the checkpoints beside the output; they are removed at the end.
    """
    watch = watch or Silent()
    began = time.monotonic()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dense_file = dense or output.with_suffix(".dense.pt")
    dense_steps = options.dense_steps or task.recipe.dense_steps
    teacher, told = dense_model(task, dense_steps, options.seed, dense_file, device, watch, stop)
    figures = {"dense": told}
    watch.figures("dense", told)
    dense_done = time.monotonic()

    budgets = layer_budgets(teacher, task, options, watch)
    settings = Settings(
        steps=options.steps or task.recipe.steps,
        rate=options.rate or task.recipe.rate,
        weight_decay=task.recipe.weight_decay,
        seed=options.seed,
        distil=options.distil,
        frozen=() if options.embeddings else task.recipe.frozen,
    )
    lessons = Lessons(lessons_file(dense_file, teacher, settings), settings.steps) if share else None
    model = copy.deepcopy(teacher)
    standing = max(round(settings.steps * options.pruned_by), 1)
    method = METHODS[options.method](standing, model, lambda: samples(task, options.seed, device))
    pruner = make_pruner(model, task, options, budgets, method, CRITERIA[str(options.criterion)]())
    if method.done(0):
        figures["one_shot"] = task.evaluate(model)
    else:
        at_once = copy.deepcopy(teacher)
        make_pruner(at_once, task, options, budgets, one_shot(), Magnitude()).finish()
        figures["one_shot"] = task.evaluate(at_once)
        del at_once
    watch.figures("one-shot", figures["one_shot"])
    checkpoint = Checkpoint(
        output.with_suffix(".checkpoint.pt"), {"task": task.name, **_plain(asdict(options)), "stage": "prune"}
    )
    train(
        model, task, settings,
        pruner=pruner, teacher=teacher, lessons=lessons, checkpoint=checkpoint,
        watch=watch, stage="prune", stop=stop,
        evaluate_every=max(settings.steps // evaluations, 1) if evaluations else 0,
    )  # fmt: skip
    reports = tuple(replace(report, name=report.name.removeprefix(task.prefix)) for report in pruner.finish())
    figures["retrained"] = task.evaluate(model)
    watch.figures("retrained", figures["retrained"])
    trained = time.monotonic()

    error = export_checked(model, task, output) if export else None
    result = PruneResult(
        task=task.name,
        options=options,
        layers=reports,
        sparsity={"wanted": options.sparsity, **zeros(model, reports)},
        metric=figures,
        steps={"dense": dense_steps, "prune": settings.steps},
        seconds={
            "dense": dense_done - began,
            "prune": trained - dense_done,
            "export": time.monotonic() - trained,
        },
        versions={name: version(name) for name in ("tvm-espalier", "torch", "numpy", "onnx")}
        | {"python": platform.python_version()},
        onnx_error=error,
    )
    write_json(output.with_suffix(".json"), result.to_dict())
    checkpoint.path.unlink(missing_ok=True)
    return result


def dense_model(
    task: Task,
    steps: int,
    seed: int,
    path: Path,
    device: torch.device,
    watch: Watch,
    stop: Callable[[], bool],
) -> tuple[nn.Module, dict[str, float]]:
    """The dense model of a task and its figures.

    It is one that ships, or the weights in `path`, or trained now and kept there with its figures.
    """
    trained = task.trained()
    if trained is not None:
        return trained.to(device).eval(), task.evaluate(trained)
    torch.manual_seed(seed)
    model = task.model().to(device)
    identity = {"task": task.name, "seed": seed, "steps": steps, "stage": "dense"}
    kept = Checkpoint(path, identity)
    saved = kept.read()
    if saved is None:
        recipe = task.recipe
        settings = Settings(steps, recipe.dense_rate, recipe.weight_decay, seed=seed, frozen=recipe.frozen)
        part = Checkpoint(path.with_suffix(".checkpoint.pt"), identity)
        train(
            model, task, settings,
            checkpoint=part, watch=watch, stage="dense", evaluate_every=max(steps // 5, 1), stop=stop,
        )  # fmt: skip
        saved = {"model": model.state_dict(), "figures": task.evaluate(model)}
        kept.write(saved)
        part.path.unlink(missing_ok=True)
    model.load_state_dict(saved["model"])
    return model.eval(), saved["figures"]


def lessons_file(dense: Path, teacher: nn.Module, settings: Settings) -> Path:
    """The file of a teacher's outputs; its name tells weights, seed and steps, for any would change it."""
    digest = hashlib.sha256()
    for tensor in teacher.state_dict().values():
        digest.update(tensor.detach().cpu().numpy().tobytes())
    name = f"{dense.stem}.{digest.hexdigest()[:12]}-{settings.seed}-{settings.steps}.npy"
    return dense.with_name(name)


def left_dense(task: Task, options: PruneOptions) -> tuple[str, ...]:
    """Names of the layers that are not pruned."""
    return options.leave if options.heads else (*task.leave, *options.leave)


def layer_budgets(
    dense: nn.Module, task: Task, options: PruneOptions, watch: Watch
) -> float | dict[str, float]:
    """The sparsity of every layer, or one by layer where it is allocated by sensitivity."""
    if options.allocation == "uniform":
        return options.sparsity
    layers = prunable_layers(dense, leave=left_dense(task, options), embeddings=options.embeddings)
    family = parse_family(options.structure)
    batches = samples(task, options.seed, next(dense.parameters()).device)
    criterion: Criterion = Magnitude()
    if options.method == "layerwise" and all(has_inputs(layer) for layer in layers):
        criterion = CRITERIA[str(options.criterion)]()
    criterion.start(layers)
    with torch.no_grad():
        outputs = [dense(*inputs) for inputs in batches[:TRIALS]]
        for inputs in batches[TRIALS:]:
            dense(*inputs)
    criterion.stop()
    return allocate_sparsity(
        dense, layers, family, options.sparsity,
        lambda model: mean_distance(model, task, batches[:TRIALS], outputs),
        criterion=criterion,
        progress=lambda done, count, rise: watch.step("sensitivity", done, count, rise),
    )  # fmt: skip


def make_pruner(
    model: nn.Module,
    task: Task,
    options: PruneOptions,
    budgets: float | dict[str, float],
    method: Method,
    criterion: Criterion,
) -> Pruner:
    """The pruner that the options ask for; UsageError where they contradict the model."""
    try:
        return Pruner(
            model,
            parse_family(options.structure),
            budgets,
            method=method,
            criterion=criterion,
            leave=left_dense(task, options),
            embeddings=options.embeddings,
        )
    except ValueError as error:
        raise UsageError(
            str(error), hint="choose another --structure, --method, --criterion, --sparsity or --leave"
        ) from None


def samples(task: Task, seed: int, device: torch.device) -> list[tuple[torch.Tensor, ...]]:
    """Inputs of some training batches."""
    return [task.batch(step, seed).to(device).inputs for step in range(CALIBRATION)]


@torch.no_grad()
def mean_distance(
    model: nn.Module, task: Task, batches: Sequence[tuple[torch.Tensor, ...]], outputs: Sequence[torch.Tensor]
) -> float:
    """How far the model is from the dense one's `outputs` on `batches`: what sensitivity is measured by.

    Smoother on few data than the loss against labels, and least where nothing is pruned.
    """
    losses = [
        task.teaching(model(*inputs), output).item() for inputs, output in zip(batches, outputs, strict=True)
    ]
    return float(np.mean(losses))


def zeros(model: nn.Module, reports: tuple[LayerReport, ...]) -> dict[str, float]:
    """Fractions of exact zeros among the pruned layers' weights and among all parameters."""
    pruned = sum(report.shape[0] * report.shape[1] for report in reports)
    gone = sum(round(report.sparsity * report.shape[0] * report.shape[1]) for report in reports)
    total = sum(parameter.numel() for parameter in model.parameters())
    nothing = sum(int((parameter == 0).sum()) for parameter in model.parameters())
    return {"pruned_layers": gone / pruned, "all_weights": nothing / total}


def export_checked(model: nn.Module, task: Task, output: Path) -> float:
    """Write ONNX and run it: the largest difference from torch, relative to the largest output."""
    import onnxruntime

    model = model.to("cpu").eval()
    example = task.example()
    signature = task.signature
    export_onnx(
        model, output, example,
        inputs=signature.inputs, outputs=signature.outputs, dynamic=signature.dynamic, prefix=task.prefix,
    )  # fmt: skip
    with torch.no_grad():
        expected = model(*example).numpy()
    session = onnxruntime.InferenceSession(str(output), providers=["CPUExecutionProvider"])
    feeds = {name: tensor.numpy() for name, tensor in zip(signature.inputs, example, strict=True)}
    got: Any = session.run(None, feeds)[0]
    return float(np.abs(got - expected).max() / np.abs(expected).max())


def write_json(path: Path, value: dict[str, Any]) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(value, indent=1) + "\n")
    os.replace(part, path)


def _plain(options: dict[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in options.items()}
