from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from espalier.errors import DataError, StoppedError
from espalier.pruning.criteria import CRITERIA
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
        method=METHODS[method](20),
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
     ("one-shot", "wanda"), ("gradual", "reconstruction")],
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
