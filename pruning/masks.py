"""Masks on weights by torch's parametrization: the parameter stays whole, the model sees exact zeros."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils import parametrize

from espalier.pruning.layers import Layer


class Mask(nn.Module):
    """The parametrization `weight = where(mask, original, 0)`.

    mask: bool, of the stored shape; a buffer, so that it is part of the model's state. A pruned weight gets
    no gradient unless `dense_gradient`: then the one it would have if it were kept (straight through).
    """

    mask: torch.Tensor

    def __init__(self, like: torch.Tensor, *, dense_gradient: bool = False) -> None:
        super().__init__()
        self.register_buffer("mask", torch.ones_like(like, dtype=torch.bool))
        self.dense_gradient = dense_gradient

    def forward(self, original: torch.Tensor) -> torch.Tensor:
        masked = torch.where(self.mask, original, original.new_zeros(()))
        if self.dense_gradient:
            return original + (masked - original).detach()
        return masked


def mask_of(layer: Layer) -> Mask | None:
    """The mask on a weight, if it has one."""
    if not parametrize.is_parametrized(layer.module, layer.attribute):
        return None
    for parametrization in layer.module.parametrizations[layer.attribute]:  # pyright: ignore
        if isinstance(parametrization, Mask):
            return parametrization
    return None


def attach(layer: Layer, *, dense_gradient: bool = False) -> Mask:
    """Put a mask of ones on a weight. An optimizer made before keeps working: the parameter is the same."""
    found = mask_of(layer)
    if found is not None:
        found.dense_gradient = dense_gradient
        return found
    mask = Mask(layer.parameter, dense_gradient=dense_gradient)
    parametrize.register_parametrization(layer.module, layer.attribute, mask)
    return mask


def set_mask(layer: Layer, keep: torch.Tensor) -> None:
    """keep: bool `[N, K]`."""
    attach_or_found = mask_of(layer) or attach(layer)
    attach_or_found.mask.copy_(layer.turned(keep))


def bake(layer: Layer) -> None:
    """Make the zeros part of the parameter and take the mask off."""
    if mask_of(layer) is not None:
        parametrize.remove_parametrizations(layer.module, layer.attribute, leave_parametrized=True)
