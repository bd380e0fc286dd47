"""The training loop: seed and step number decide everything, so a killed run goes on to the same weights."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from espalier.errors import DataError, StoppedError
from espalier.pruning.distil import Lessons
from espalier.pruning.pruner import Pruner
from espalier.pruning.schedules import learning_rate
from espalier.pruning.tasks.task import Task


@dataclass(frozen=True)
class Settings:
    """One training. distil: share of the teacher's loss, 0 to 1. Weight decay spares biases and norms.

    frozen: names of parameters (`*` and `?` allowed) that keep their values.
    """

    steps: int
    rate: float
    weight_decay: float = 0.01
    clip: float = 1.0
    seed: int = 0
    distil: float = 0.0
    frozen: tuple[str, ...] = ()


class Watch(Protocol):
    """Is told how a training goes."""

    def step(self, stage: str, step: int, steps: int, loss: float) -> None: ...

    def figures(self, stage: str, figures: dict[str, float]) -> None: ...


class Silent:
    """A Watch that looks away."""

    def step(self, stage: str, step: int, steps: int, loss: float) -> None: ...

    def figures(self, stage: str, figures: dict[str, float]) -> None: ...


@dataclass
class Checkpoint:
    """A file that a run goes on from. identity: what must be equal for that. every: seconds between."""

    path: Path
    identity: dict[str, Any]
    every: float = 60.0

    def read(self) -> dict[str, Any] | None:
        """What was last written, or None. DataError where it is damaged or belongs to other settings."""
        if not self.path.exists():
            return None
        hint = f"remove {self.path} to begin anew, or write to another output"
        try:
            saved = torch.load(self.path, weights_only=True)
            identity = saved["identity"]
        except Exception as error:  # noqa: BLE001 torch raises many kinds for a damaged file
            raise DataError(f"checkpoint {self.path} cannot be read: {error}", hint=hint) from None
        for key, value in self.identity.items():
            if identity.get(key) != value:
                raise DataError(
                    f"checkpoint {self.path}: {key} was {identity.get(key)!r}, expected {value!r}", hint=hint
                )
        return saved

    def write(self, state: dict[str, Any]) -> None:
        """Whole or not at all."""
        part = self.path.with_name(self.path.name + ".part")
        torch.save({"identity": self.identity, **state}, part)
        os.replace(part, self.path)


def train(
    model: nn.Module,
    task: Task,
    settings: Settings,
    *,
    pruner: Pruner | None = None,
    teacher: nn.Module | None = None,
    lessons: Lessons | None = None,
    checkpoint: Checkpoint | None = None,
    watch: Watch | None = None,
    stage: str = "train",
    evaluate_every: int = 0,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Train `model` in place with AdamW for `settings.steps` batches, from the checkpoint where there is one.

    lessons: what keeps the teacher's outputs for other runs on the same batches.
    evaluate_every: steps between figures for `watch` (0: none); none while a criterion still watches the
    model, which must see training data only. stop: asked after each step; when true the state is written and
    StoppedError raised.
    """
    watch = watch or Silent()
    device = next(model.parameters()).device
    freeze(model, settings.frozen)
    optimizer = _optimizer(model, settings)
    lessons = lessons or Lessons()
    torch.manual_seed(settings.seed)
    saved = checkpoint.read() if checkpoint else None
    begin = 0
    if saved is not None:
        begin = _restore(saved, model, optimizer, pruner)
    if teacher is not None:
        teacher.eval()
    model.train()
    written = time.monotonic()
    for step in range(begin, settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, settings.steps, settings.rate)
        batch = task.batch(step, settings.seed).to(device)
        output = model(*batch.inputs)
        loss = task.loss(output, batch.target)
        if teacher is not None and settings.distil > 0.0:
            taught = lessons.at(step, teacher, batch.inputs)
            loss = (1.0 - settings.distil) * loss + settings.distil * task.teaching(output, taught)
        value = loss.item()
        if pruner is not None:
            loss = loss + pruner.penalty()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        optimizer.step()
        if pruner is not None:
            pruner.step()
        optimizer.zero_grad()
        watch.step(stage, step + 1, settings.steps, value)
        settled = pruner is None or pruner.method.done(pruner.steps)
        if evaluate_every and settled and (step + 1) % evaluate_every == 0:
            watch.figures(stage, task.evaluate(model))
        stopped = stop()
        if checkpoint and (stopped or time.monotonic() - written >= checkpoint.every):
            checkpoint.write(_state(step + 1, model, optimizer, pruner))
            written = time.monotonic()
        if stopped:
            raise StoppedError(
                f"interrupted at step {step + 1} of {settings.steps}; the work so far is kept",
                hint="run the same command again to go on from there",
            )
    model.eval()


def _optimizer(model: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.dim() > 1], "weight_decay": settings.weight_decay},
            {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
        ],
        lr=settings.rate,
        fused=True,
    )


def freeze(model: nn.Module, frozen: Sequence[str]) -> None:
    """Let the parameters that `frozen` names (`*` and `?` allowed) have no gradient, and all others one."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not any(fnmatchcase(name, pattern) for pattern in frozen))


def _state(
    step: int, model: nn.Module, optimizer: torch.optim.Optimizer, pruner: Pruner | None
) -> dict[str, Any]:
    return {
        "step": step,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "pruner": pruner.state() if pruner else None,
        "random": torch.get_rng_state(),
        "random_gpu": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _restore(
    saved: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer, pruner: Pruner | None
) -> int:
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    if pruner is not None:
        pruner.load(saved["pruner"])
    torch.set_rng_state(saved["random"].cpu())
    if saved.get("random_gpu"):
        torch.cuda.set_rng_state_all([state.cpu() for state in saved["random_gpu"]])
    return saved["step"]
