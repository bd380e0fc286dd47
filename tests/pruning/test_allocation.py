from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from espalier.pruning.allocation import Choice, allocate, allocate_sparsity, sensitivity
from espalier.pruning.criteria import Magnitude, Reconstruction
from espalier.pruning.families import UnstructuredFamily
from espalier.pruning.layers import prunable_layers

pytestmark = pytest.mark.unit

CHOICES = st.lists(
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 50)), min_size=1, max_size=4),
    min_size=1,
    max_size=4,
)


@given(CHOICES, st.integers(1, 60))
def test_allocation_is_the_best_of_all(table: list[list[tuple[int, int]]], budget: int) -> None:
    choices = {
        str(layer): [Choice(index / 10, float(loss), float(cost)) for index, (cost, loss) in enumerate(row)]
        for layer, row in enumerate(table)
    }
    fitting = [
        sum(loss for _, loss in picks)
        for picks in itertools.product(*table)
        if sum(cost for cost, _ in picks) <= budget
    ]
    if not fitting:
        with pytest.raises(ValueError, match="the least that these choices cost"):
            allocate(choices, budget, resolution=budget)
        return
    answer = allocate(choices, budget, resolution=budget)
    picked = [choices[name][round(share * 10)] for name, share in answer.items()]
    assert sum(choice.cost for choice in picked) <= budget
    assert sum(choice.loss for choice in picked) == min(fitting)


def test_a_budget_too_tight_for_the_resolution_is_refused() -> None:
    choices = {name: [Choice(0.5, 0.0, 1.0)] for name in "abc"}
    with pytest.raises(ValueError, match="too tight for a resolution of 2 steps"):
        allocate(choices, 3.0, resolution=2)


def test_no_budget_is_refused() -> None:
    with pytest.raises(ValueError, match="the budget is 0"):
        allocate({"a": [Choice(0.5, 0.0, 0.0)]}, 0.0)


def test_the_layer_that_matters_less_is_pruned_more() -> None:
    """Same shapes, but the second layer's outputs are scaled down: its pruning hurts less."""
    torch.manual_seed(0)
    first, second = nn.Linear(16, 16, bias=False), nn.Linear(16, 16, bias=False)
    x = torch.randn(64, 16)
    with torch.no_grad():
        second.weight.mul_(0.01)
        expected = first(x) + second(x)
    model = nn.ModuleList([first, second])
    before = [layer.weight.detach().clone() for layer in (first, second)]

    @torch.no_grad()
    def loss(_model: nn.Module) -> float:
        return float((first(x) + second(x) - expected).square().mean())

    layers = prunable_layers(model)
    shares = allocate_sparsity(model, layers, UnstructuredFamily(), 0.45, loss)
    assert shares["0.weight"] < shares["1.weight"]
    assert np.mean(list(shares.values())) >= 0.45 - 1e-9
    for layer, weight in zip((first, second), before, strict=True):
        assert torch.equal(layer.weight, weight)


def test_sensitivity_never_falls_and_measures_each_layer_alone() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))
    x = torch.randn(32, 8)
    with torch.no_grad():
        expected = model(x)
    layers = prunable_layers(model)

    @torch.no_grad()
    def loss() -> float:
        return float((model(x) - expected).square().mean())

    told: list[tuple[int, int]] = []
    measured = sensitivity(
        layers, UnstructuredFamily(), loss,
        grid=(0.0, 0.5, 0.9), measured=(0.5, 0.9), progress=lambda done, count, _: told.append((done, count)),
    )  # fmt: skip
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    for layer in layers:
        losses = [choice.loss for choice in measured[layer.name]]
        assert losses[0] == 0.0 and losses == sorted(losses) and losses[-1] > 0
        total = layer.shape[0] * layer.shape[1]
        assert [choice.cost for choice in measured[layer.name]] == [total, total / 2, round(total * 0.1)]


def test_losses_between_measured_sparsities_are_interpolated() -> None:
    """A loss that is the number of zeros: a straight line, which interpolation gives back exactly."""
    model = nn.Sequential(nn.Linear(10, 10, bias=False))
    layers = prunable_layers(model)
    calls = 0

    def zeros() -> float:
        nonlocal calls
        calls += 1
        return float((layers[0].matrix() == 0).sum())

    (choices,) = sensitivity(
        layers, UnstructuredFamily(), zeros, grid=(0.0, 0.25, 0.5, 0.7, 0.95), measured=(0.5, 0.9)
    ).values()
    assert [choice.loss for choice in choices] == pytest.approx([0, 25, 50, 70, 90])
    assert [choice.cost for choice in choices] == [100, 75, 50, 30, 5] and calls == 3


def test_what_a_criterion_makes_up_for_is_measured_with_it() -> None:
    """On correlated inputs reconstruction loses less, and both leave the weights as they were."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 8, bias=False))
    x = torch.randn(64, 4) @ torch.randn(4, 16)
    layers = prunable_layers(model)
    before = layers[0].matrix().clone()
    solving = Reconstruction()
    solving.start(layers)
    with torch.no_grad():
        expected = model(x)
    solving.stop()

    @torch.no_grad()
    def loss() -> float:
        return float((model(x) - expected).square().mean())

    losses = {}
    for criterion in (Magnitude(), solving):
        (choices,) = sensitivity(layers, UnstructuredFamily(), loss, criterion=criterion).values()
        losses[type(criterion)] = choices[2].loss
        assert torch.equal(layers[0].matrix(), before)
    assert losses[Reconstruction] < 0.1 * losses[Magnitude]
