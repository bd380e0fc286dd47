from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from espalier.pruning.criteria import Criterion, Magnitude, Reconstruction, Wanda, least_squares
from espalier.pruning.families import HPFamily
from espalier.pruning.layers import prunable_layers
from espalier.pruning.layerwise import Layerwise, in_order, run_until
from espalier.pruning.masks import mask_of
from espalier.pruning.pruner import Pruner

pytestmark = pytest.mark.unit


class Attention(nn.Module):
    """Three layers on one input, then two more; declared in another order than they run."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Linear(24, 16)
        self.query, self.key, self.value = (nn.Linear(16, 16) for _ in range(3))
        self.up = nn.Linear(16, 24)
        self.idle = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mixed = torch.softmax(self.query(x) @ self.key(x).transpose(-1, -2), dim=-1) @ self.value(x)
        return self.down(torch.relu(self.up(x + mixed)))


def made() -> tuple[Attention, list[tuple[torch.Tensor, ...]]]:
    torch.manual_seed(0)
    mixing = torch.randn(16, 16) * torch.logspace(0, -2, 16)
    return Attention(), [(torch.randn(2, 20, 16) @ mixing,) for _ in range(3)]


def test_layers_come_in_the_order_they_run_and_those_of_one_input_together() -> None:
    model, batches = made()
    groups = in_order(model, prunable_layers(model, leave=["idle"]), batches[0])
    names = [[layer.name.removesuffix(".weight") for layer in group] for group in groups]
    assert names == [["query", "key", "value"], ["up"], ["down"]]


def test_a_layer_that_does_not_run_is_refused() -> None:
    model, batches = made()
    with pytest.raises(ValueError, match=r"idle\.weight does not run when the model does"):
        Pruner(model, HPFamily(B=8), 0.75, method=Layerwise(model, batches), criterion=Reconstruction())


def test_a_pass_ends_with_the_layer_it_is_for() -> None:
    model, batches = made()
    ran: list[str] = []
    for name in ("query", "up", "down"):
        model.get_submodule(name).register_forward_hook(lambda *_, name=name: ran.append(name))
    run_until(model, batches[0], model.up)
    assert ran == ["query", "up"]
    model(*batches[0])
    assert ran[2:] == ["query", "up", "down"]


def test_each_layer_is_solved_on_the_inputs_that_pruned_ones_leave() -> None:
    """Against the same done by hand: least squares for `up` on its inputs after query, key and value."""
    model, batches = made()
    dense = copy.deepcopy(model)
    Pruner(
        model, HPFamily(B=8), 0.75,
        method=Layerwise(model, batches), criterion=Reconstruction(), leave=["idle", "down"],
    )  # fmt: skip
    seen: list[torch.Tensor] = []
    model.up.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().reshape(-1, 16)))
    with torch.no_grad():
        for batch in batches:
            model(*batch)
    x = torch.cat(seen).double()
    hessian = x.T @ x
    hessian.diagonal().add_(0.01 * hessian.diagonal().mean())
    (layer,) = [layer for layer in prunable_layers(model) if layer.name == "up.weight"]
    mask = mask_of(layer)
    assert mask is not None
    expected = least_squares(dense.up.weight.detach().double(), hessian, mask.mask)
    assert torch.allclose(layer.effective().double(), expected, atol=1e-4)


def error(criterion: Criterion) -> float:
    model, batches = made()
    with torch.no_grad():
        expected = [model(*batch) for batch in batches]
    method = Layerwise(model, batches)
    pruner = Pruner(model, HPFamily(B=8), 0.75, method=method, criterion=criterion, leave=["idle"])
    pruner.finish()
    assert model.training
    with torch.no_grad():
        return sum(float((model(*x) - y).square().mean()) for x, y in zip(batches, expected, strict=True))


def test_reconstruction_leaves_less_error_than_wanda_and_magnitude() -> None:
    once, wanda, solved = error(Magnitude()), error(Wanda()), error(Reconstruction())
    assert solved < 0.6 * min(once, wanda)
