"""Which weights of a model can be pruned, and how to see each as a matrix [N, K]."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import nn
from torch.nn.utils import parametrize


@dataclass(frozen=True)
class Layer:
    """One weight: the parameter `attribute` of `module`, a matrix `[N, K]` of `y = x Wᵀ`.

    name: dotted name of the weight in the model. transposed: the module stores `[K, N]` (GPT-2's Conv1D).
    """

    name: str
    module: nn.Module
    attribute: str
    transposed: bool

    @property
    def parameter(self) -> nn.Parameter:
        """The trained parameter, as stored, before any mask."""
        if parametrize.is_parametrized(self.module, self.attribute):
            return self.module.parametrizations[self.attribute].original  # pyright: ignore
        return getattr(self.module, self.attribute)

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K)"""
        rows, columns = self.parameter.shape
        return (columns, rows) if self.transposed else (rows, columns)

    def turned(self, stored: torch.Tensor) -> torch.Tensor:
        """`[N, K]` of what is stored, or what is stored of `[N, K]`: its own inverse."""
        return stored.T if self.transposed else stored

    def matrix(self) -> torch.Tensor:
        """The weight `[N, K]` before any mask, detached; shares memory with the parameter."""
        return self.turned(self.parameter.detach())

    def effective(self) -> torch.Tensor:
        """The weight `[N, K]` the model computes with, masks applied, detached."""
        return self.turned(getattr(self.module, self.attribute).detach())


def _weights_of(module: nn.Module, embeddings: bool) -> list[tuple[str, bool]]:
    """(attribute, transposed) of the prunable weights that a module itself holds."""
    if isinstance(module, nn.Linear) or (embeddings and isinstance(module, nn.Embedding)):
        return [("weight", False)]
    if isinstance(module, nn.MultiheadAttention):
        split = ["q_proj_weight", "k_proj_weight", "v_proj_weight"]
        return [(name, False) for name in (split if module.in_proj_weight is None else ["in_proj_weight"])]
    if type(module).__name__ == "Conv1D" and hasattr(module, "nf"):  # of transformers
        return [("weight", True)]
    return []


def prunable_layers(
    model: nn.Module, *, leave: Sequence[str] = (), embeddings: bool = False
) -> tuple[Layer, ...]:
    """Every weight of a linear layer, in the model's order, but those that `leave` names.

    leave: names of modules or weights with `*` and `?` (`"classifier"`, `"layers.0.*"`); a name that stands
    for a module leaves all below it. A weight that several modules share appears once, and not at all where
    one of them is an embedding (a tied decoder), unless `embeddings` is true.
    """
    tied = set() if embeddings else {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    layers: list[Layer] = []
    seen: set[int] = set()
    for name, module in model.named_modules():
        for attribute, transposed in _weights_of(module, embeddings):
            layer = Layer(f"{name}.{attribute}" if name else attribute, module, attribute, transposed)
            key = id(layer.parameter)
            if key in seen or key in tied or _left(layer.name, leave):
                continue
            seen.add(key)
            layers.append(layer)
    return tuple(layers)


def _left(name: str, patterns: Sequence[str]) -> bool:
    parts = name.split(".")
    prefixes = [".".join(parts[: i + 1]) for i in range(len(parts))]
    return any(fnmatchcase(prefix, pattern) for prefix in prefixes for pattern in patterns)
