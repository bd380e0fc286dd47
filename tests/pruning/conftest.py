from __future__ import annotations

import pytest
import torch
from torch import nn

from espalier.pruning.tasks.task import Batch, Recipe, Signature, Task, batch_rows


class Blobs(Task):
    """Two classes of 16-dimensional points, told apart by a nonlinear rule; a small net with dropout."""

    name = "blobs"
    metric = "accuracy"
    recipe = Recipe(batch=16, dense_steps=60, dense_rate=1e-2, steps=40, rate=1e-2)
    leave = ("5",)
    signature = Signature(("x",), ("logits",), {"x": {0: "batch"}})

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(7)
        self.points = torch.randn(256, 16, generator=generator)
        self.labels = (self.points[:, :8].square().sum(1) > self.points[:, 8:].square().sum(1)).long()

    def model(self) -> nn.Module:
        return nn.Sequential(
            nn.Linear(16, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 2)
        )

    def batch(self, step: int, seed: int) -> Batch:
        rows = torch.from_numpy(batch_rows(192, self.recipe.batch, step, seed))
        return Batch((self.points[rows],), self.labels[rows])

    def example(self) -> tuple[torch.Tensor, ...]:
        return (self.points[:3],)

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        training = model.training
        found = model.eval()(self.points[192:]).argmax(1)
        model.train(training)
        return {"accuracy": float((found == self.labels[192:]).float().mean())}


@pytest.fixture
def blobs() -> Blobs:
    return Blobs()


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
