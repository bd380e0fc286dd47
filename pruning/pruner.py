"""The pruner: puts masks on a model's linear layers while somebody else trains it.

pruner = Pruner(model, HPFamily(v=4, n=2), 0.9, method=Gradual(Cubic(0, 1000, every=50)))
for batch in loader:
    (loss_of(model, batch) + pruner.penalty()).backward()
    optimizer.step(); pruner.step(); optimizer.zero_grad()
pruner.finish()
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from espalier.pruning.criteria import Criterion, Magnitude
from espalier.pruning.families import BPPPFamily, Family, PPFamily, structure_at
from espalier.pruning.layers import Layer, prunable_layers
from espalier.pruning.masks import attach, bake, set_mask
from espalier.pruning.methods import Gradual, Method
from espalier.pruning.patterns import common_patterns, require_blocks
from espalier.pruning.schedules import Cubic
from espalier.sparsity import Structure, sizes


@dataclass(frozen=True)
class LayerReport:
    """What became of one weight. structure: its label, `HP(B=32,...)`. sparsity: fraction of exact zeros.

    bytes: size of the weight in each format of `sparsity.sizes`, and "packed" in the one of its structure.
    """

    name: str
    shape: tuple[int, int]
    structure: str
    sparsity: float
    bytes: dict[str, int | None]


class Pruner:
    """Prunes every linear layer of `model` to a structure of `family`.

    sparsity: of every layer, or one a layer by weight name (see `allocation`); a layer not named stays dense.
    method: when and how (default: at once). criterion: which weights (default: magnitude). leave, embeddings:
    as in `prunable_layers`. Raises ValueError for a sparsity outside 0 <= s < 1, an unknown name, no layer,
    and patterns that are too large for a weight.
    """

    def __init__(
        self,
        model: nn.Module,
        family: Family,
        sparsity: float | Mapping[str, float],
        *,
        method: Method | None = None,
        criterion: Criterion | None = None,
        leave: Sequence[str] = (),
        embeddings: bool = False,
    ) -> None:
        found = prunable_layers(model, leave=leave, embeddings=embeddings)
        if isinstance(sparsity, Mapping):
            strangers = sorted(set(sparsity) - {layer.name for layer in found})
            if strangers:
                raise ValueError(f"no prunable weight is called {strangers[0]!r}")
            budgets = dict(sparsity)
        else:
            budgets = {layer.name: sparsity for layer in found}
        wrong = [name for name, share in budgets.items() if not 0.0 <= share < 1.0]
        if wrong:
            raise ValueError(f"sparsity of {wrong[0]} is {budgets[wrong[0]]}, expected 0 <= sparsity < 1")
        self.layers = tuple(layer for layer in found if budgets.get(layer.name, 0.0) > 0.0)
        if not self.layers:
            raise ValueError("the model has no layer to prune: all are left alone or at sparsity 0")
        self.family, self.budgets = family, budgets
        if self._shares and len({budgets[layer.name] for layer in self.layers}) > 1:
            raise ValueError("a shared pattern set needs one sparsity for all layers; give shared=false")
        for layer in self.layers if isinstance(family, PPFamily | BPPPFamily) else ():
            require_blocks(self.structure(layer), layer.shape, budgets[layer.name])
        self.method = method or Gradual(Cubic(0, 0))
        self.criterion: Criterion = criterion or Magnitude()
        self.steps = 0
        for layer in self.layers:
            attach(layer, dense_gradient=self.criterion.dense_gradient)
        self.method.start(self)

    def structure(self, layer: Layer, fraction: float = 1.0) -> Structure:
        """The structure of a layer when `fraction` of its final sparsity is reached."""
        return structure_at(self.family, layer.shape, self.budgets[layer.name] * fraction)

    def prune(
        self,
        fraction: float = 1.0,
        *,
        layers: Sequence[Layer] | None = None,
        criterion: Criterion | None = None,
    ) -> None:
        """Make the masks of all or some layers anew, by the pruner's or another criterion.

        fraction: of the final sparsity.
        """
        criterion = criterion or self.criterion
        chosen = self.layers if layers is None else layers
        scores = [criterion.score(layer).float().cpu().numpy() for layer in chosen]
        structures = [self.structure(layer, fraction) for layer in chosen]
        extra = {"patterns": self._patterns(fraction)} if self._shares else {}
        for layer, structure, score in zip(chosen, structures, scores, strict=True):
            keep = torch.from_numpy(structure.mask(score, **extra)).to(layer.parameter.device)
            set_mask(layer, keep)
            criterion.adjust(layer, keep)

    @property
    def _shares(self) -> bool:
        return isinstance(self.family, PPFamily | BPPPFamily) and self.family.shared

    def _patterns(self, fraction: float) -> np.ndarray:
        """The one pattern set of all layers."""
        structures = [self.structure(layer, fraction) for layer in self.layers]
        return common_patterns(structures, [layer.matrix().float().cpu().numpy() for layer in self.layers])

    def penalty(self) -> torch.Tensor:
        """What the method adds to the loss, a scalar (0 for most)."""
        return self.method.penalty(self)

    def step(self) -> None:
        """To be called after each step of the optimizer."""
        self.steps += 1
        self.method.step(self, self.steps)
        if self.method.done(self.steps):
            self._settle()

    def _settle(self) -> None:
        """The final masks stand: nothing is watched any more and pruned weights get no gradient."""
        self.criterion.stop()
        for layer in self.layers:
            attach(layer)

    def finish(self) -> tuple[LayerReport, ...]:
        """Make the zeros part of the weights, take the masks off, and tell what became of each layer."""
        if not self.method.done(self.steps):
            self.prune()
        self._settle()
        for layer in self.layers:
            bake(layer)
        return self.report()

    def report(self) -> tuple[LayerReport, ...]:
        """One entry a layer, in the model's order."""
        return tuple(self._report(layer) for layer in self.layers)

    def _report(self, layer: Layer) -> LayerReport:
        weight, structure = layer.effective().cpu().numpy(), self.structure(layer)
        packed = -(-structure.bits(layer.shape, weight.dtype.itemsize * 8) // 8)
        return LayerReport(
            layer.name,
            layer.shape,
            structure.label(),
            float(np.mean(weight == 0)),
            {**sizes(weight, structure), "packed": packed},
        )

    def state(self) -> dict[str, Any]:
        """For a checkpoint, with the model's and the optimizer's own; the masks are part of the model's."""
        settled = self.method.done(self.steps)
        return {
            "steps": self.steps,
            "method": self.method.state(),
            "criterion": {} if settled else self.criterion.state(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken. The model's state must have been loaded before."""
        self.steps = state["steps"]
        self.method.load(state["method"])
        self.criterion.load(state["criterion"])
        if self.method.done(self.steps):
            self._settle()
