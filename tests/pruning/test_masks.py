from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from espalier.pruning.layers import prunable_layers
from espalier.pruning.masks import attach, bake, mask_of, set_mask

pytestmark = pytest.mark.unit


def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(6, 4)


def checkered() -> torch.Tensor:
    return (torch.arange(4)[:, None] + torch.arange(6)) % 2 == 0


def test_masked_weights_are_exact_positive_zeros() -> None:
    model = linear()
    (layer,) = prunable_layers(model)
    before = model.weight.detach().clone()
    set_mask(layer, checkered())
    pruned = model.weight[~checkered()]
    assert (pruned == 0).all() and not torch.signbit(pruned).any()
    assert torch.equal(model.weight[checkered()], before[checkered()])
    assert torch.equal(layer.parameter, before)
    assert torch.equal(layer.effective(), model.weight)


@pytest.mark.parametrize("dense_gradient", [False, True])
def test_gradient_of_pruned_weights(dense_gradient: bool) -> None:
    model = linear()
    (layer,) = prunable_layers(model)
    attach(layer, dense_gradient=dense_gradient)
    set_mask(layer, checkered())
    assert (model.weight[~checkered()] == 0).all()
    model(torch.ones(1, 6)).sum().backward()
    gradient = layer.parameter.grad
    assert gradient is not None
    expected = torch.ones(4, 6) if dense_gradient else checkered().float()
    assert torch.equal(gradient, expected)


def test_an_optimizer_made_before_keeps_working() -> None:
    model = linear()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    (layer,) = prunable_layers(model)
    before = layer.parameter.detach().clone()
    set_mask(layer, checkered())
    model(torch.ones(1, 6)).sum().backward()
    optimizer.step()
    assert torch.equal(layer.parameter, before - checkered().float())


def test_baking_leaves_a_plain_module_with_zeros() -> None:
    model = linear()
    (layer,) = prunable_layers(model)
    bake(layer)
    set_mask(layer, checkered())
    bake(layer)
    assert not parametrize.is_parametrized(model) and mask_of(layer) is None
    assert isinstance(model.weight, nn.Parameter)
    assert ((model.weight == 0) == ~checkered()).all()


def test_a_mask_is_part_of_the_state() -> None:
    model, other = linear(), linear()
    for one in (model, other):
        attach(prunable_layers(one)[0])
    set_mask(prunable_layers(model)[0], checkered())
    other.load_state_dict(model.state_dict())
    assert torch.equal(model.weight, other.weight)
