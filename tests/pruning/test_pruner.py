from __future__ import annotations

import pytest
import torch
from torch import nn

from espalier.pruning.distil import distillation
from espalier.pruning.families import HPFamily, UnstructuredFamily
from espalier.pruning.methods import Gradual
from espalier.pruning.pruner import Pruner
from espalier.pruning.schedules import Cubic

pytestmark = pytest.mark.unit


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 8))


def test_five_lines_in_somebodys_loop() -> None:
    network = model()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    pruner = Pruner(network, HPFamily(B=4), 0.75, method=Gradual(Cubic(0, 6, every=2)))
    for _ in range(10):
        (network(torch.randn(4, 16)).square().mean() + pruner.penalty()).backward()
        optimizer.step()
        pruner.step()
        optimizer.zero_grad()
    reports = pruner.finish()
    assert [report.name for report in reports] == ["0.weight", "2.weight"]
    assert [report.sparsity for report in reports] == pytest.approx([0.75, 0.75], abs=0.1)
    assert reports[0].structure == "HP(B=4,kc=8,v=4,n=2)" and reports[0].shape == (12, 16)


def test_finishing_early_prunes_all_the_same() -> None:
    pruner = Pruner(model(), UnstructuredFamily(), 0.5, method=Gradual(Cubic(0, 100)))
    pruner.step()
    assert [report.sparsity for report in pruner.finish()] == [0.5, 0.5]


def test_budgets_by_layer() -> None:
    pruner = Pruner(model(), UnstructuredFamily(), {"0.weight": 0.75, "2.weight": 0.0})
    assert [(report.name, report.sparsity) for report in pruner.finish()] == [("0.weight", 0.75)]


@pytest.mark.parametrize(
    ("sparsity", "leave", "message"),
    [
        ({"1.weight": 0.5}, (), "no prunable weight is called '1.weight'"),
        (1.0, (), r"sparsity of 0.weight is 1.0, expected 0 <= sparsity < 1"),
        (float("nan"), (), r"sparsity of 0.weight is nan"),
        (0.5, ("*",), "no layer to prune"),
        (0.0, (), "no layer to prune"),
    ],
)
def test_refuses(sparsity: float, leave: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Pruner(model(), UnstructuredFamily(), sparsity, leave=leave)


def test_distillation_is_nothing_for_equal_logits_and_the_formula_otherwise() -> None:
    student, teacher = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    assert distillation(teacher, teacher + 3.0).item() == pytest.approx(0.0, abs=1e-6)
    p, q = (teacher / 2).softmax(-1), (student / 2).softmax(-1)
    expected = 4 * (p * (p / q).log()).sum(-1).mean()
    assert distillation(student, teacher).item() == pytest.approx(expected.item(), rel=1e-5)
