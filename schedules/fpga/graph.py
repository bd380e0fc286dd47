"""A part of a model that the accelerator can run, in float: what `passes/partition.py` cuts out.

Nodes in order, each with one result `[tokens, features]` under its own name. Calling a node is its meaning,
in numpy; a part is evaluated a sequence at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from espalier.targets.fpga.accelerator import symbol

Values = Mapping[str, np.ndarray]

PADDING = "padding"
"""The mask that the runtime makes itself where sequences may be shorter than the program's."""


def _gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + _erf(x * math.sqrt(0.5)))


def _erf(x: np.ndarray) -> np.ndarray:
    """Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26; error below 1.5e-7."""
    t = 1 / (1 + 0.3275911 * np.abs(x))
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    return np.sign(x) * (1 - series * np.exp(-x * x))


def _gelu_tanh(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * x))


ACTIVATIONS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "none": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "tanh": np.tanh,
    "sigmoid": _sigmoid,
    "silu": lambda x: x * _sigmoid(x),
}
"""What a linear layer may end in, as `passes.ops` names it."""


@dataclass(frozen=True)
class Linear:
    """`activation(x weight^T + bias)`."""

    name: str
    layer: str
    """As reports name it: the ONNX initializer of the weight."""
    x: str
    weight: np.ndarray
    """[N, K]"""
    bias: np.ndarray
    """[N]"""
    mask: np.ndarray | None
    """bool [N, K] of the kept weights; None when all are."""
    structure: str
    """What the weight was detected to be."""
    activation: str = "none"

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names read."""
        return (self.x,)

    @property
    def features(self) -> int:
        """Of the result."""
        return len(self.weight)

    def before(self, values: Values) -> np.ndarray:
        """What the activation is applied to."""
        return values[self.x] @ self.weight.T + self.bias

    def __call__(self, values: Values) -> np.ndarray:
        return ACTIVATIONS[self.activation](self.before(values))


@dataclass(frozen=True)
class Add:
    """`left + right`."""

    name: str
    left: str
    right: str
    features: int

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names read."""
        return (self.left, self.right)

    def __call__(self, values: Values) -> np.ndarray:
        return values[self.left] + values[self.right]


@dataclass(frozen=True)
class Norm:
    """Layer normalisation over the features of `x`, or of `x + residual`."""

    name: str
    x: str
    residual: str | None
    gamma: np.ndarray
    beta: np.ndarray
    epsilon: float

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names read."""
        return (self.x,) if self.residual is None else (self.x, self.residual)

    @property
    def features(self) -> int:
        """Of the result."""
        return len(self.gamma)

    def before(self, values: Values) -> np.ndarray:
        """What is normalised."""
        return values[self.x] if self.residual is None else values[self.x] + values[self.residual]

    def __call__(self, values: Values) -> np.ndarray:
        z = self.before(values)
        centred = z - z.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + self.epsilon) * self.gamma + self.beta


@dataclass(frozen=True)
class Attention:
    """Self-attention: `softmax(scale * q k^T + mask) v` a head."""

    name: str
    query: str
    key: str
    value: str
    mask: str | None
    """Added to the scores: [tokens] of each key, or [tokens, tokens] of each query and key where `square`."""
    heads: int
    scale: float
    features: int
    square: bool = False

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of tensors read."""
        return (self.query, self.key, self.value)

    def scores(self, values: Values) -> np.ndarray:
        """`[heads, tokens, tokens]`."""

        def split(name: str) -> np.ndarray:
            x = values[name]
            return x.reshape(len(x), self.heads, -1).transpose(1, 0, 2)

        scores = self.scale * split(self.query) @ split(self.key).transpose(0, 2, 1)
        return scores if self.mask is None else scores + values[self.mask]

    def __call__(self, values: Values) -> np.ndarray:
        scores = self.scores(values)
        # a query none of whose keys counts has no top
        e = np.exp(scores - np.maximum(scores.max(-1, keepdims=True), -1e30))
        weights = e / np.maximum(e.sum(-1, keepdims=True), 1e-30)
        v = values[self.value]
        mixed = weights @ v.reshape(len(v), self.heads, -1).transpose(1, 0, 2)
        return mixed.transpose(1, 0, 2).reshape(len(v), -1)


Node = Linear | Add | Norm | Attention


@dataclass(frozen=True)
class Input:
    """A tensor `[tokens, features]` that the host hands over."""

    name: str
    features: int


@dataclass(frozen=True)
class Part:
    """A connected piece of a model."""

    name: str
    inputs: tuple[Input, ...]
    masks: tuple[str, ...]
    """Masks that the host hands over after the inputs."""
    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]
    tokens: int
    """Of a sequence, at most."""
    fixed: bool
    """Every sequence has that many tokens."""
    dimension: str = ""
    """The named dimension that counts tokens, where it is one by itself."""

    @property
    def symbol(self) -> str:
        """Under which the host's code calls it."""
        return symbol(self.name)

    @property
    def handed(self) -> tuple[str, ...]:
        """Masks that the host hands over."""
        return tuple(name for name in self.masks if name != PADDING)

    def features(self, name: str) -> int:
        """Features of a tensor of the part."""
        return next(item.features for item in (*self.inputs, *self.nodes) if item.name == name)

    def trace(self, values: Values) -> dict[str, np.ndarray]:
        """Every tensor of one sequence in float32, by name."""
        known = {name: np.asarray(value, np.float32) for name, value in values.items()}
        for node in self.nodes:
            known[node.name] = node(known)
        return known


def last_uses(nodes: Sequence[Any], outputs: Sequence[str]) -> dict[str, int]:
    """For each tensor the index of the last node that reads it; those never read again are left out."""
    last = {name: index for index, node in enumerate(nodes) for name in node.inputs}
    return {name: index for name, index in last.items() if name not in outputs}
