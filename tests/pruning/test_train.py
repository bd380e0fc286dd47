from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from espalier.errors import DataError, StoppedError
from espalier.pruning.criteria import CRITERIA
from espalier.pruning.distil import Lessons
from espalier.pruning.families import HPFamily
from espalier.pruning.pipeline import METHODS
from espalier.pruning.pruner import Pruner
from espalier.pruning.tasks.task import Task, batch_rows
from espalier.pruning.train import Checkpoint, Settings, train

pytestmark = pytest.mark.unit

SETTINGS = Settings(steps=30, rate=1e-2, distil=0.5)


def run(
    task: Task,
    dense: nn.Module,
    method: str,
    criterion: str,
    checkpoint: Checkpoint | None = None,
    stop_at: int | None = None,
) -> tuple[torch.Tensor, ...]:
    model = copy.deepcopy(dense)
    pruner = Pruner(
        model,
        HPFamily(B=8),
        0.75,
        method=METHODS[method](20, model, lambda: [task.batch(i, 0).inputs for i in range(4)]),
        criterion=CRITERIA[criterion](),
        leave=task.leave,
    )
    seen = 0

    def stop() -> bool:
        nonlocal seen
        seen += 1
        return seen == stop_at

    train(model, task, SETTINGS, pruner=pruner, teacher=dense, checkpoint=checkpoint, stop=stop)
    pruner.finish()
    return tuple(parameter.detach() for parameter in model.parameters())


def dense_of(task: Task) -> nn.Module:
    torch.manual_seed(3)
    return task.model()


@pytest.mark.parametrize(
    ("method", "criterion"),
    [("gradual", "magnitude"), ("lasso", "magnitude"), ("admm", "magnitude"), ("gradual", "movement"),
     ("one-shot", "wanda"), ("gradual", "reconstruction"), ("layerwise", "reconstruction")],
)  # fmt: skip
@pytest.mark.parametrize("stop_at", [1, 13, 20, 24])
def test_a_stopped_run_goes_on_to_the_same_weights(
    blobs: Task, tmp_path: Path, method: str, criterion: str, stop_at: int
) -> None:
    dense = dense_of(blobs)
    straight = run(blobs, dense, method, criterion)
    checkpoint = Checkpoint(tmp_path / "c.pt", {"task": "blobs"})
    with pytest.raises(StoppedError, match=f"interrupted at step {stop_at} of 30"):
        run(blobs, dense, method, criterion, checkpoint, stop_at)
    torch.manual_seed(99)
    resumed = run(blobs, dense, method, criterion, checkpoint)
    assert all(torch.equal(a, b) for a, b in zip(straight, resumed, strict=True))


def test_equal_seeds_give_equal_weights_and_others_do_not(blobs: Task) -> None:
    results = []
    for seed in (0, 0, 1):
        model = dense_of(blobs)
        train(model, blobs, Settings(steps=5, rate=1e-2, seed=seed))
        results.append(next(model.parameters()).detach())
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


def test_training_learns(blobs: Task) -> None:
    model = dense_of(blobs)
    train(model, blobs, Settings(steps=400, rate=1e-2))
    assert blobs.evaluate(model)["accuracy"] > 0.7


def test_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    Checkpoint(tmp_path / "c.pt", {"seed": 1}).write({"step": 1})
    with pytest.raises(DataError, match="seed was 1, expected 2") as caught:
        Checkpoint(tmp_path / "c.pt", {"seed": 2}).read()
    assert "remove" in caught.value.hint


@pytest.mark.parametrize("content", [b"", b"not a checkpoint"])
def test_damaged_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c.pt").write_bytes(content)
    with pytest.raises(DataError, match="cannot be read"):
        Checkpoint(tmp_path / "c.pt", {}).read()


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert Checkpoint(tmp_path / "c.pt", {}).read() is None


def test_an_epoch_shows_every_example_once_and_each_in_another_order() -> None:
    first = np.concatenate([batch_rows(12, 4, step, seed=5) for step in range(3)])
    second = np.concatenate([batch_rows(12, 4, step, seed=5) for step in range(3, 6)])
    assert sorted(first) == sorted(second) == list(range(12))
    assert not np.array_equal(first, second)
    assert len(batch_rows(3, 8, 17, seed=0)) == 3


class Counted(nn.Module):
    """A teacher that counts how often it is asked."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.calls = inner, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.inner(x)


def taught(task: Task, teacher: nn.Module, lessons: Lessons | None) -> torch.Tensor:
    model = dense_of(task)
    train(model, task, Settings(steps=6, rate=1e-2, distil=0.9), teacher=teacher, lessons=lessons)
    return next(model.parameters()).detach()


def test_kept_lessons_change_nothing_and_are_asked_once(blobs: Task, tmp_path: Path) -> None:
    torch.manual_seed(5)
    teacher = Counted(blobs.model())
    without = taught(blobs, teacher, None)
    assert teacher.calls == 6
    path = tmp_path / "lessons.npy"
    assert torch.equal(taught(blobs, teacher, Lessons(path, 6)), without) and teacher.calls == 12
    assert torch.equal(taught(blobs, teacher, Lessons(path, 6)), without) and teacher.calls == 12
    kept = np.load(path)
    assert kept.shape == (6, 16, 2) and np.isfinite(kept).all()
    np.lib.format.open_memmap(path, mode="r+")[4] = (
        np.nan
    )  # as if the first run had been killed before step 5
    assert torch.equal(taught(blobs, teacher, Lessons(path, 6)), without) and teacher.calls == 13


def test_lessons_that_are_too_large_are_not_kept(blobs: Task, tmp_path: Path) -> None:
    teacher = Counted(dense_of(blobs))
    for _ in range(2):
        taught(blobs, teacher, Lessons(tmp_path / "lessons.npy", 6, most=6 * 16 * 2 * 4 - 1))
    assert teacher.calls == 12 and list(tmp_path.iterdir()) == []


def test_frozen_parameters_keep_their_values_and_others_do_not(blobs: Task) -> None:
    model = dense_of(blobs)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    train(model, blobs, Settings(steps=3, rate=1e-2, frozen=("0.*", "5.bias")))
    same = {name for name, value in model.named_parameters() if torch.equal(value, before[name])}
    assert same == {"0.weight", "0.bias", "5.bias"}
    train(model, blobs, Settings(steps=1, rate=1e-2))
    assert all(value.requires_grad for value in model.parameters())
