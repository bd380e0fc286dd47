"""When masks are made and what pulls weights towards a structure: one-shot, gradual, group lasso, ADMM.

Every method ends with hard masks at a known step; training after that step is retraining under fixed masks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from espalier.pruning.criteria import Criterion
from espalier.pruning.layers import Layer
from espalier.pruning.schedules import Cubic
from espalier.sparsity import BP, BPPP, HP, Structure


class Pruner(Protocol):
    """What a method needs of the pruner it works for (pruner.Pruner)."""

    @property
    def layers(self) -> Sequence[Layer]: ...

    @property
    def steps(self) -> int: ...

    @property
    def criterion(self) -> Criterion: ...

    def structure(self, layer: Layer, fraction: float = 1.0) -> Structure: ...

    def prune(
        self,
        fraction: float = 1.0,
        *,
        layers: Sequence[Layer] | None = None,
        criterion: Criterion | None = None,
    ) -> None: ...


class Method(ABC):
    """Called by a Pruner; steps count from 1, 0 is before the first."""

    def start(self, pruner: Pruner) -> None:
        """Before the first step. Here: the criterion begins to watch all layers."""
        pruner.criterion.start(pruner.layers)

    def penalty(self, pruner: Pruner) -> torch.Tensor:
        """Added to the loss, a scalar."""
        return pruner.layers[0].parameter.new_zeros(())

    @abstractmethod
    def step(self, pruner: Pruner, step: int) -> None:
        """After a step of the optimizer."""

    @abstractmethod
    def done(self, step: int) -> bool:
        """Whether the final masks stand."""

    def state(self) -> dict[str, Any]:
        """For a checkpoint: tensors by name."""
        return {}

    def load(self, state: dict[str, Any]) -> None:  # noqa: B027 may do nothing
        """Go on from `state`."""


@dataclass
class Gradual(Method):
    """Masks by the criterion along a schedule; `Cubic(k, k)` prunes in one shot after step k."""

    schedule: Cubic

    def start(self, pruner: Pruner) -> None:
        super().start(pruner)
        if self.schedule.end == 0:
            pruner.prune()

    def step(self, pruner: Pruner, step: int) -> None:
        if self.schedule.due(step):
            pruner.prune(self.schedule.fraction(step))

    def done(self, step: int) -> bool:
        return step >= self.schedule.end


def one_shot(at: int = 0) -> Gradual:
    """All at once, after step `at`."""
    return Gradual(Cubic(at, at))


def lasso_groups(structure: Structure) -> tuple[int, bool]:
    """(B, transposed) of the groups level 1 prunes: columns of each B rows of the weight or its transpose."""
    if isinstance(structure, HP):
        return structure.B, False
    if isinstance(structure, BP | BPPP):
        return structure.B, structure.axis == "rows"
    raise ValueError(f"group lasso prunes whole columns of blocks (hp, bp, bp+pp), not {structure.label()}")


def group_norms(weight: torch.Tensor, height: int) -> torch.Tensor:
    """l2 norms of the columns of each `height` rows of `[N, K]`: `[ceil(N / height), K]`."""
    return torch.stack([block.square().sum(dim=0).sqrt() for block in weight.split(height)])


def shrink_groups(weight: torch.Tensor, height: int, thresholds: torch.Tensor) -> torch.Tensor:
    """The proximal step of group lasso: each group W_g becomes W_g · max(0, 1 - t_g / ||W_g||).

    It solves argmin_V ½||V - W||² + Σ t_g ||V_g||. thresholds: `[ceil(N / height), K]`.
    """
    norms = group_norms(weight, height)
    factors = torch.where(norms > thresholds, 1.0 - thresholds / norms.clamp_min(1e-30), norms.new_zeros(()))
    return weight * factors.repeat_interleave(height, dim=0)[: len(weight)]


@dataclass
class GroupLasso(Method):
    """Reweighted group lasso on the groups of level 1, by proximal steps, then hard masks after step `steps`.

    Groups that are small already are pushed harder: their weights, 1 / (||W_g|| + ε) relative to the layer's
    mean norm, are taken anew every `every` steps (Candès, Wakin & Boyd 2008; RT3, arXiv 2102.06336, level 1).
    strength: what a group of mean norm loses over all steps, as a share. ε: `floor` times the mean norm.
    """

    steps: int
    strength: float = 0.5
    every: int = 50
    floor: float = 0.1
    thresholds: dict[str, torch.Tensor] = field(default_factory=dict)

    def start(self, pruner: Pruner) -> None:
        super().start(pruner)
        for layer in pruner.layers:
            lasso_groups(pruner.structure(layer))
        self._reweight(pruner)

    def _turned(self, pruner: Pruner, layer: Layer) -> tuple[torch.Tensor, int]:
        height, transposed = lasso_groups(pruner.structure(layer))
        weight = layer.matrix()
        return (weight.T if transposed else weight), height

    def _reweight(self, pruner: Pruner) -> None:
        for layer in pruner.layers:
            norms = group_norms(*self._turned(pruner, layer))
            mean = norms.mean()
            weights = (1.0 + self.floor) / (norms / mean + self.floor)
            self.thresholds[layer.name] = weights * mean * (self.strength / self.steps)

    def step(self, pruner: Pruner, step: int) -> None:
        if step > self.steps:
            return
        for layer in pruner.layers:
            weight, height = self._turned(pruner, layer)
            weight.copy_(shrink_groups(weight, height, self.thresholds[layer.name]))
        if step == self.steps:
            pruner.prune()
        elif step % self.every == 0:
            self._reweight(pruner)

    def done(self, step: int) -> bool:
        return step >= self.steps

    def state(self) -> dict[str, Any]:
        return dict(self.thresholds)

    def load(self, state: dict[str, Any]) -> None:
        self.thresholds = dict(state)


@dataclass
class Admm(Method):
    """Alternating direction method of multipliers, then hard masks after step `steps`.

    The loss gets rho/2 · Σ||W - Z + U||²; every `every` steps Z becomes the projection of W + U on the
    structure, that is W + U under its best mask, and U grows by W - Z.
    Source: Zhang et al. 2018 (arXiv 1804.03294), as used for Transformers at ISQED 2021.
    """

    steps: int
    rho: float = 1e-2
    every: int = 50
    targets: dict[str, torch.Tensor] = field(default_factory=dict)
    duals: dict[str, torch.Tensor] = field(default_factory=dict)

    def start(self, pruner: Pruner) -> None:
        super().start(pruner)
        for layer in pruner.layers:
            self.duals[layer.name] = torch.zeros_like(layer.matrix())
            self.targets[layer.name] = project(layer.matrix(), pruner.structure(layer))

    def penalty(self, pruner: Pruner) -> torch.Tensor:
        total = super().penalty(pruner)
        if self.done(pruner.steps):
            return total
        for layer in pruner.layers:
            gap = layer.turned(layer.parameter) - self.targets[layer.name] + self.duals[layer.name]
            total = total + gap.square().sum()
        return 0.5 * self.rho * total

    def step(self, pruner: Pruner, step: int) -> None:
        if step == self.steps:
            pruner.prune()
        elif step < self.steps and step % self.every == 0:
            for layer in pruner.layers:
                weight, dual = layer.matrix(), self.duals[layer.name]
                target = project(weight + dual, pruner.structure(layer))
                self.targets[layer.name] = target
                self.duals[layer.name] = dual + weight - target

    def done(self, step: int) -> bool:
        return step >= self.steps

    def state(self) -> dict[str, Any]:
        return {"targets": dict(self.targets), "duals": dict(self.duals)}

    def load(self, state: dict[str, Any]) -> None:
        self.targets, self.duals = dict(state["targets"]), dict(state["duals"])


def project(weight: torch.Tensor, structure: Structure) -> torch.Tensor:
    """The nearest matrix of the structure: `weight` `[N, K]` under its mask by magnitude."""
    keep = torch.from_numpy(structure.mask(weight.float().cpu().numpy())).to(weight.device)
    return torch.where(keep, weight, weight.new_zeros(()))
