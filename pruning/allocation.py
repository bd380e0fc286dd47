"""How much to prune each layer so that a total budget is met at the least loss.

First `sensitivity` measures what each layer alone costs at each sparsity of a grid, then `allocate` picks one
sparsity a layer: a multiple-choice knapsack, solved by dynamic programming.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from espalier.pruning.criteria import Criterion, Magnitude
from espalier.pruning.families import Family, structure_at
from espalier.pruning.layers import Layer
from espalier.sparsity import Structure

GRID = (0.0, 0.25, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.975)
"""Sparsities that a layer may be given."""

MEASURED = (0.5, 0.75, 0.9, 0.975)
"""Those at which its loss is measured; it is interpolated between them, and from 0 at sparsity 0."""


@dataclass(frozen=True)
class Choice:
    """One way to prune a layer. loss: in quality, any unit that adds up. cost: in units of the budget."""

    sparsity: float
    loss: float
    cost: float


def kept_weights(structure: Structure, shape: tuple[int, int]) -> float:
    """The cost function of a global sparsity: weights kept."""
    return float(structure.kept_count(shape))


def sensitivity(
    layers: Sequence[Layer],
    family: Family,
    evaluate: Callable[[], float],
    *,
    grid: Sequence[float] = GRID,
    measured: Sequence[float] = MEASURED,
    criterion: Criterion | None = None,
    cost: Callable[[Structure, tuple[int, int]], float] = kept_weights,
    progress: Callable[[int, int, float], None] = lambda done, count, rise: None,
) -> dict[str, list[Choice]]:
    """How much `evaluate()` rises when one layer alone is pruned, for each layer and sparsity of the grid.

    evaluate: the loss of the model on fixed data, lower is better; the weights are put back afterwards. It is
    asked once, and once a layer for each sparsity of `measured`; `progress` is told how many of these are
    done and the last rise. A rise below zero counts as zero, and one smaller than at a lower sparsity as that
    (noise of few data). Past the last sparsity measured a loss is taken as there. criterion: one that has
    seen its data; what it makes up for (`Criterion.adjust`) is measured with it.
    """
    criterion = criterion or Magnitude()
    before = evaluate()
    choices: dict[str, list[Choice]] = {}
    count = len(layers) * len(measured)
    for index, layer in enumerate(layers):
        kept = layer.matrix().clone()
        score = criterion.score(layer).float().cpu().numpy()
        rises = [0.0]
        for done, share in enumerate(sorted(measured), start=index * len(measured) + 1):
            keep = torch.from_numpy(structure_at(family, layer.shape, share).mask(score)).to(kept.device)
            criterion.adjust(layer, keep)
            layer.matrix().mul_(keep)
            rises.append(max(rises[-1], evaluate() - before))
            layer.matrix().copy_(kept)
            progress(done, count, rises[-1])
        losses = np.interp(sorted(grid), [0.0, *sorted(measured)], rises)
        choices[layer.name] = [
            Choice(share, float(loss), cost(structure_at(family, layer.shape, share), layer.shape))
            for share, loss in zip(sorted(grid), losses, strict=True)
        ]
    return choices


def allocate(
    choices: Mapping[str, Sequence[Choice]], budget: float, *, resolution: int = 4000
) -> dict[str, float]:
    """One sparsity a layer with the least total loss among those whose total cost is within `budget`.

    Costs are rounded up to budget / resolution, so the budget always holds; the answer is the optimum where
    costs are whole multiples of that. Raises ValueError, with the least cost there is, where none fits.
    """
    names = list(choices)
    least = sum(min(choice.cost for choice in choices[name]) for name in names)
    if budget <= 0.0 or least > budget:
        raise ValueError(f"the budget is {budget:g}, but the least that these choices cost is {least:g}")
    unit = budget / resolution
    best = np.zeros(resolution + 1)
    picks: list[np.ndarray] = []
    for name in names:
        costs = [int(np.ceil(choice.cost / unit - 1e-9)) for choice in choices[name]]
        table = np.full((len(costs), resolution + 1), np.inf)
        for row, (units, choice) in enumerate(zip(costs, choices[name], strict=True)):
            if units <= resolution:
                table[row, units:] = best[: resolution + 1 - units] + choice.loss
        picks.append(table.argmin(axis=0))
        best = table.min(axis=0)
    if not np.isfinite(best[resolution]):
        raise ValueError(f"the budget {budget:g} is too tight for a resolution of {resolution} steps")
    left = resolution
    answer: dict[str, float] = {}
    for name, pick in zip(reversed(names), reversed(picks), strict=True):
        choice = choices[name][pick[left]]
        left -= int(np.ceil(choice.cost / unit - 1e-9))
        answer[name] = choice.sparsity
    return {name: answer[name] for name in names}


def allocate_sparsity(
    model: nn.Module,
    layers: Sequence[Layer],
    family: Family,
    sparsity: float,
    evaluate: Callable[[nn.Module], float],
    *,
    grid: Sequence[float] = GRID,
    criterion: Criterion | None = None,
    progress: Callable[[int, int, float], None] = lambda done, count, rise: None,
) -> dict[str, float]:
    """Sparsities by layer that keep at most 1 - sparsity of all weights of `layers`, by sensitivity."""
    choices = sensitivity(
        layers, family, lambda: evaluate(model), grid=grid, criterion=criterion, progress=progress
    )
    total = sum(layer.shape[0] * layer.shape[1] for layer in layers)
    return allocate(choices, (1.0 - sparsity) * total)
