"""The code of docs/pruning.md runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

import espalier as es

pytestmark = pytest.mark.unit

TEXT = (Path(__file__).parents[2] / "docs" / "pruning.md").read_text(encoding="utf-8")
LOOP, BUDGETS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(128, 128)
        self.classifier = nn.Linear(128, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(torch.relu(self.body(x)))


def test_the_training_loop(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Classifier()
    points = torch.randn(64, 128)
    loader = [(points, (points[:, 0] > 0).long())] * 1000

    def loss_of(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    path = tmp_path / "model.onnx"
    exec(
        LOOP,
        {
            "model": model, "loader": loader, "loss_of": loss_of, "path": path, "example": points[:2],
            "optimizer": torch.optim.AdamW(model.parameters(), lr=1e-3),
        },
    )  # fmt: skip
    seen = {weight.name: weight.label for weight in es.inspect(path).weights}
    assert seen == {"body.weight": "HP(B=32,kc=24,v=4,n=2)", "classifier.weight": "dense"}
    assert loss_of(model, loader[0]).item() < 0.1


def test_budgets_by_layer() -> None:
    torch.manual_seed(0)
    model = Classifier()
    points = torch.randn(64, 128)
    with torch.no_grad():
        expected = model(points)

    @torch.no_grad()
    def loss_on_some_data(model: nn.Module) -> float:
        return float((model(points) - expected).square().mean())

    scope = {
        "model": model, "loss_on_some_data": loss_on_some_data,
        "milliseconds": lambda structure, shape: structure.kept_count(shape) / 4000,
    }  # fmt: skip
    exec(BUDGETS, scope)
    assert set(scope["budgets"]) == {"body.weight", "classifier.weight"}
