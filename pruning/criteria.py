"""What makes a weight worth keeping: a score >= 0 a weight, from which a structure makes its mask.

Structures weigh groups by the sum of squared scores: a score is on the scale of a weight, not of its square.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from espalier.pruning.layers import Layer


class Criterion(ABC):
    """Scores the weights of layers. `dense_gradient`: whether pruned weights must keep getting gradients."""

    dense_gradient = False

    def start(self, layers: Sequence[Layer]) -> None:  # noqa: B027 may do nothing
        """Begin to watch the layers, before the first step."""

    @abstractmethod
    def score(self, layer: Layer) -> torch.Tensor:
        """`[N, K]`, >= 0."""

    def adjust(self, layer: Layer, keep: torch.Tensor) -> None:  # noqa: B027 may do nothing
        """Change what is kept to make up for what is pruned. keep: bool `[N, K]`."""

    def stop(self) -> None:  # noqa: B027 may do nothing
        """Stop watching."""

    def state(self) -> dict[str, torch.Tensor]:
        """What was seen so far, for a checkpoint."""
        return {}

    def load(self, state: dict[str, torch.Tensor]) -> None:  # noqa: B027 may do nothing
        """Go on from `state`."""


class Magnitude(Criterion):
    """|w|"""

    def score(self, layer: Layer) -> torch.Tensor:
        return layer.matrix().abs()


class _Watching(Criterion):
    """A criterion that sums up something a layer, `self.seen[name]`, by hooks."""

    def __init__(self) -> None:
        self.seen: dict[str, torch.Tensor] = {}
        self.handles: list[RemovableHandle] = []

    def start(self, layers: Sequence[Layer]) -> None:
        for layer in layers:
            self.seen[layer.name] = self.empty(layer)
            self.handles.append(self.watch(layer))

    @abstractmethod
    def empty(self, layer: Layer) -> torch.Tensor: ...

    @abstractmethod
    def watch(self, layer: Layer) -> RemovableHandle: ...

    def stop(self) -> None:
        for handle in self.handles:
            handle.remove()
        self.handles.clear()

    def state(self) -> dict[str, torch.Tensor]:
        return {name: seen.clone() for name, seen in self.seen.items()}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        for name, seen in state.items():
            self.seen[name].copy_(seen)

    def seen_or_fail(self, layer: Layer) -> torch.Tensor:
        seen = self.seen[layer.name]
        if not seen.any():
            raise ValueError(
                f"{type(self).__name__}: nothing has gone through {layer.name} yet; "
                "run the model on some batches before the first mask is made"
            )
        return seen


def has_inputs(layer: Layer) -> bool:
    """Whether it is a linear layer whose inputs can be watched."""
    return not isinstance(layer.module, nn.MultiheadAttention | nn.Embedding)


def _watch_inputs(layer: Layer, see: object) -> RemovableHandle:
    """Call `see(x)` with the inputs f32 `[tokens, K]` of a linear layer, each time it runs."""
    if not has_inputs(layer):
        raise ValueError(f"the inputs of {layer.name} cannot be watched: it belongs to no linear layer")

    def hook(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        x = inputs[0].detach()
        see(x.reshape(-1, x.shape[-1]).float())  # pyright: ignore[reportCallIssue]

    return layer.module.register_forward_pre_hook(hook)


class Wanda(_Watching):
    """|w_ij| · ||x_j||, x_j the j-th input feature. Source: Sun et al. 2023, arXiv 2306.11695."""

    def empty(self, layer: Layer) -> torch.Tensor:
        return torch.zeros(layer.shape[1], device=layer.parameter.device)

    def watch(self, layer: Layer) -> RemovableHandle:
        seen = self.seen[layer.name]
        return _watch_inputs(layer, lambda x: seen.add_(x.square().sum(dim=0)))

    def score(self, layer: Layer) -> torch.Tensor:
        return layer.matrix().abs() * self.seen_or_fail(layer).sqrt()


class Movement(_Watching):
    """How far a weight moves away from zero: S = -Σ w · ∂L/∂w. Source: Sanh et al. 2020, arXiv 2005.07683.

    S may be negative; the score is sqrt(S - min S), so that sums of squared scores order groups as sums of S.
    """

    dense_gradient = True

    def empty(self, layer: Layer) -> torch.Tensor:
        return torch.zeros_like(layer.parameter)

    def watch(self, layer: Layer) -> RemovableHandle:
        seen, parameter = self.seen[layer.name], layer.parameter

        def hook(gradient: torch.Tensor) -> None:
            seen.sub_(parameter.detach() * gradient)

        return parameter.register_hook(hook)

    def score(self, layer: Layer) -> torch.Tensor:
        moved = layer.turned(self.seen_or_fail(layer))
        return (moved - moved.min()).sqrt()


class Reconstruction(_Watching):
    """Optimal brain surgeon over a layer's inputs: SparseGPT's criterion, solved exactly, not greedily.

    With H = Σ x xᵀ + damping: the score is |w_ij| / sqrt([H⁻¹]_jj), and what a row keeps is set to the least
    squares answer for its mask, w_S = H_SS⁻¹ (H w)_S, so that outputs change least on what was seen.
    Source: Frantar & Alistarh 2023 (arXiv 2301.00774), eq. 1 and 3. damping: share of H's mean diagonal.
    """

    def __init__(self, damping: float = 0.01) -> None:
        super().__init__()
        self.damping = damping

    def empty(self, layer: Layer) -> torch.Tensor:
        columns = layer.shape[1]
        return torch.zeros(columns, columns, dtype=torch.float64, device=layer.parameter.device)

    def watch(self, layer: Layer) -> RemovableHandle:
        seen = self.seen[layer.name]
        return _watch_inputs(layer, lambda x: seen.add_((x.T @ x).double()))

    def hessian(self, layer: Layer) -> torch.Tensor:
        """f64 `[K, K]`, positive definite."""
        hessian = self.seen_or_fail(layer).clone()
        hessian.diagonal().add_(self.damping * hessian.diagonal().mean())
        return hessian

    def score(self, layer: Layer) -> torch.Tensor:
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(self.hessian(layer)))
        return layer.matrix().abs() / inverse.diagonal().sqrt().to(layer.parameter.dtype)

    def adjust(self, layer: Layer, keep: torch.Tensor) -> None:
        solved = least_squares(layer.matrix().double(), self.hessian(layer), keep)
        layer.matrix().copy_(solved.to(layer.parameter.dtype))


def least_squares(weight: torch.Tensor, hessian: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """The V `[N, K]` that is zero outside `keep` and minimises tr((V - W) H (V - W)ᵀ)."""
    target = weight @ hessian
    solved = torch.zeros_like(weight)
    masks, owner = torch.unique(keep, dim=0, return_inverse=True)
    for index, mask in enumerate(masks):
        columns = mask.nonzero().squeeze(1)
        rows = (owner == index).nonzero().squeeze(1)
        if len(columns):
            factor = torch.linalg.cholesky(hessian[columns[:, None], columns])
            solved[rows[:, None], columns] = torch.cholesky_solve(target[rows[:, None], columns].T, factor).T
    return solved


CRITERIA: dict[str, type[Criterion]] = {
    "magnitude": Magnitude,
    "wanda": Wanda,
    "movement": Movement,
    "reconstruction": Reconstruction,
}
