"""Pruning one layer after another before any training, on the inputs that pruned ones before it leave."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from espalier.pruning.criteria import Magnitude, has_inputs
from espalier.pruning.layers import Layer
from espalier.pruning.methods import Method, Pruner


class Layerwise(Method):
    """All masks at once, from the first layer to the last; training after that is retraining.

    With `Reconstruction` a layer's kept weights are set so that its outputs change least, and layers after it
    see, and make up for, what is left of the change (SparseGPT, arXiv 2301.00774, section 3.4). Weights that
    no linear layer holds (embeddings, projections of nn.MultiheadAttention) are pruned first, by magnitude.
    model: what the pruner works on. batches: its inputs on some training data, at best more tokens than a
    layer has inputs. Costs about half a forward pass of `batches` for each group of layers that share inputs.
    """

    def __init__(self, model: nn.Module, batches: Sequence[tuple[torch.Tensor, ...]]) -> None:
        self.model, self.batches = model, batches

    def start(self, pruner: Pruner) -> None:
        training = self.model.training
        self.model.eval()
        others = [layer for layer in pruner.layers if not has_inputs(layer)]
        pruner.prune(layers=others, criterion=Magnitude())
        linear = [layer for layer in pruner.layers if has_inputs(layer)]
        for group in in_order(self.model, linear, self.batches[0]):
            pruner.criterion.stop()
            pruner.criterion.start(group)
            for batch in self.batches:
                run_until(self.model, batch, group[-1].module)
            pruner.prune(layers=group)
        pruner.criterion.stop()
        self.model.train(training)

    def step(self, pruner: Pruner, step: int) -> None:
        """Nothing: the masks stand."""

    def done(self, step: int) -> bool:
        return True


class _Reached(Exception):
    """A forward pass has come to the module it was meant for."""


@torch.no_grad()
def run_until(model: nn.Module, batch: tuple[torch.Tensor, ...], last: nn.Module) -> None:
    """Run `model` up to the end of `last`."""

    def stop(*_: object) -> None:
        raise _Reached

    handle = last.register_forward_hook(stop)
    try:
        model(*batch)
    except _Reached:
        pass
    finally:
        handle.remove()


@torch.no_grad()
def in_order(model: nn.Module, layers: Sequence[Layer], batch: tuple[torch.Tensor, ...]) -> list[list[Layer]]:
    """`layers` as they run, those that see the very same input (queries, keys, values) in one group."""
    seen: list[tuple[torch.Tensor, Layer]] = []

    def watch(layer: Layer) -> RemovableHandle:
        return layer.module.register_forward_pre_hook(lambda _, inputs: seen.append((inputs[0], layer)))

    handles = [watch(layer) for layer in layers]
    try:
        model(*batch)
    finally:
        for handle in handles:
            handle.remove()
    groups: list[list[Layer]] = []
    source: torch.Tensor | None = None
    done: set[str] = set()
    for x, layer in seen:
        if layer.name in done:
            continue
        done.add(layer.name)
        if x is source:
            groups[-1].append(layer)
        else:
            groups.append([layer])
        source = x
    missing = [layer.name for layer in layers if layer.name not in done]
    if missing:
        raise ValueError(f"{missing[0]} does not run when the model does; leave it alone")
    return groups
