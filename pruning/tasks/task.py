"""What a task is: a dense model, data, a loss and a metric."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from espalier.pruning.distil import distillation


@dataclass(frozen=True)
class Batch:
    """inputs: what the model is called with, in order. target: what its output is compared with."""

    inputs: tuple[torch.Tensor, ...]
    target: torch.Tensor

    def to(self, device: torch.device) -> Batch:
        return Batch(tuple(x.to(device) for x in self.inputs), self.target.to(device))


@dataclass(frozen=True)
class Recipe:
    """How a task is trained where nothing else is asked. Steps count batches; rates are peaks.

    frozen: parameters that training leaves as they are (`*` and `?` allowed).
    """

    batch: int
    dense_steps: int
    dense_rate: float
    steps: int
    rate: float
    weight_decay: float = 0.01
    frozen: tuple[str, ...] = ()


@dataclass(frozen=True)
class Signature:
    """Names of the ONNX inputs and outputs, and for each input its open dimensions {axis: name}."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    dynamic: Mapping[str, Mapping[int, str]] = field(default_factory=dict)


class Task(ABC):
    """One task. All randomness comes from a seed and the number of the step, so a run can go on anywhere.

    metric: the name of the figure in `evaluate` that stands for quality; higher is better.
    leave: linear layers that are not pruned, as in `prunable_layers`. prefix: what the names of ONNX
    initializers leave out of the names of the model's parameters.
    """

    name: ClassVar[str]
    metric: ClassVar[str]
    recipe: ClassVar[Recipe]
    leave: ClassVar[tuple[str, ...]] = ()
    signature: ClassVar[Signature]
    prefix: ClassVar[str] = ""

    @abstractmethod
    def model(self) -> nn.Module:
        """The model that dense training starts from; new weights come from torch's global generator."""

    def trained(self) -> nn.Module | None:
        """A dense model that needs no training, where the task has one."""
        return None

    @abstractmethod
    def batch(self, step: int, seed: int) -> Batch:
        """The training batch of a step, counted from 0."""

    @abstractmethod
    def example(self) -> tuple[torch.Tensor, ...]:
        """Inputs to export with: every open dimension larger than 1."""

    @abstractmethod
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Figures on held-out data, `metric` among them. Leaves the model in its mode."""

    def loss(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """A scalar. Here: cross entropy, logits `[..., classes]`, target int64 `[...]`."""
        return F.cross_entropy(output.flatten(0, -2), target.flatten())

    def teaching(self, output: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """The loss against a dense teacher's output, a scalar."""
        return distillation(output, teacher)


def batch_rows(count: int, batch: int, step: int, seed: int) -> np.ndarray:
    """Which of `count` examples make the batch of a step: a new order each epoch, no short batches.

    int64 `[min(batch, count)]`.
    """
    a_epoch = max(count // batch, 1)
    epoch, index = divmod(step, a_epoch)
    order = np.random.RandomState([seed, epoch]).permutation(count)
    return order[index * batch : (index + 1) * batch]
