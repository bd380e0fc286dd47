"""Post-training int8 quantisation of single operations: linear layers, norms, sums, activation tables.

Scales are per feature wherever the accelerator lets them be: the inputs of linear layers (folded into the
weights), the terms of a sum before a norm. Values around an activation table have one scale for each group of
features; that before the table is the one with the least squared error after it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from espalier.targets.fpga import semantics
from espalier.targets.fpga.semantics import Activation, NormParams, Scale

_TINY = 1e-12


@dataclass(frozen=True)
class Linear:
    """Float `weight [N, K]` with `bias [N]`; `mask` bool `[N, K]` of the kept weights, or None when dense."""

    weight: np.ndarray
    bias: np.ndarray
    mask: np.ndarray | None = None


@dataclass(frozen=True)
class Norm:
    """Float layer norm over the last axis."""

    gamma: np.ndarray
    beta: np.ndarray
    eps: float


def multiplier(real: np.ndarray | float) -> Scale:
    """Positive reals as `mul / 2^shift` with 16 bits of mul; those below 2^-32 become 0."""
    real = np.asarray(real, np.float64)
    shift = np.clip(15 - np.floor(np.log2(np.maximum(real, _TINY))), 0, 47).astype(np.int64)
    return Scale(np.minimum(np.round(real * 2.0**shift), 65535).astype(np.int64), shift)


@dataclass(frozen=True)
class IntLinear:
    """An int8 linear layer: `semantics.linear` with these arguments."""

    weight: np.ndarray
    mask: np.ndarray | None
    bias: np.ndarray
    scale: Scale
    activation: Activation = "NONE"
    table: np.ndarray | None = None

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """int8 `[M, K]` to int8 `[M, N]`."""
        return semantics.linear(x, self.weight, self.bias, self.scale, self.activation, self.table)


def int_linear(
    layer: Linear,
    into: np.ndarray,
    out: np.ndarray,
    activation: Activation = "NONE",
    table: np.ndarray | None = None,
    mean: np.ndarray | None = None,
) -> IntLinear:
    """Quantise weights for inputs of scales `into [K]` and outputs (before the table) of scales `out [N]`.

    With `mean [K]`, the inputs' mean, the bias takes back what rounding the weights adds to the mean of the
    outputs (Nagel et al., arXiv 1906.04721, section 4.2).
    """
    folded = layer.weight * into
    step = np.maximum(np.abs(folded).max(1), _TINY) / 127
    weight = np.clip(np.round(folded / step[:, None]), -127, 127).astype(np.int8)
    limit = (1 << 31) - 1 - (1 << 14) * weight.shape[1]
    bias = layer.bias / step
    if mean is not None:
        bias = bias + (folded / step[:, None] - weight) @ (mean / into)
    bias = np.clip(np.round(bias), -limit, limit).astype(np.int64)
    return IntLinear(weight, layer.mask, bias, multiplier(step / out), activation, table)


def int_norm(norm: Norm, x: np.ndarray, residual: np.ndarray, out: np.ndarray, most: float) -> NormParams:
    """Parameters of NORM: scales of `x`, `residual` and `out`; `most` bounds the sum of the first two."""
    unit = max(most / 30_000, 256 * float(max(x.max(), residual.max())) / 32_000)
    count = len(x)
    ratio = norm.gamma / out
    shift = int(np.clip(10 + np.floor(np.log2(32_767 / max(float(np.abs(ratio).max()), _TINY))), 10, 31))
    return NormParams(
        a=np.round(x / unit * 256).astype(np.int64),
        b=np.round(residual / unit * 256).astype(np.int64),
        gamma=np.clip(np.round(ratio * 2.0 ** (shift - 10)), -32_768, 32_767).astype(np.int64),
        beta=np.clip(np.round(norm.beta / out * 128), -32_768, 32_767).astype(np.int64),
        eps=min(max(1, round(norm.eps * (count / unit) ** 2)), (1 << 56) - 1),
        shift=shift,
    )


def int_add(x: np.ndarray, residual: np.ndarray, out: np.ndarray, most: float) -> NormParams:
    """Parameters of NORM that only adds: scales of `x`, `residual` and `out`; `most` bounds the sum."""
    unit = max(most / 30_000, 256 * float(max(x.max(), residual.max())) / 32_000)
    ratio = unit / out
    shift = int(np.clip(np.floor(np.log2(32_767 / max(float(ratio.max()), _TINY))), 7, 31))
    return NormParams(
        a=np.round(x / unit * 256).astype(np.int64),
        b=np.round(residual / unit * 256).astype(np.int64),
        gamma=np.clip(np.round(ratio * 2.0**shift), -32_768, 32_767).astype(np.int64),
        beta=np.zeros(len(x), np.int64),
        eps=0,
        shift=shift,
    )


def table_scale(pre: np.ndarray, activation: Callable[[np.ndarray], np.ndarray]) -> float:
    """Scale before an activation table: least squared error of what comes out of samples `pre [n]`."""
    pre = pre[:: max(1, len(pre) // 200_000)]
    expected = activation(pre)
    scales = max(float(np.abs(pre).max()), _TINY) / 127 * np.array([1, 0.7, 0.5, 0.35, 0.25, 0.18, 0.12])
    errors = []
    for scale in scales:
        out = activation(np.clip(np.round(pre / scale), -128, 127) * scale)
        step = max(float(np.abs(out).max()), _TINY) / 127
        errors.append(((np.round(out / step) * step - expected) ** 2).mean())
    return float(scales[int(np.argmin(errors))])


@dataclass(frozen=True)
class Tables:
    """An activation of N features as int8 tables; features of one group share theirs."""

    before: np.ndarray
    """Scales of what the activation is applied to, float64 `[N]`."""
    table: np.ndarray
    """int8 `[N, 256]`"""
    after: np.ndarray
    """Scales of what comes out, float64 `[N]`."""


def activation_tables(pre: np.ndarray, activation: Callable[[np.ndarray], np.ndarray], group: int) -> Tables:
    """Tables for every `group` features, from samples `pre [M, N]` of what the activation is applied to.

    A few features have much larger values than the rest; only those of their groups lose by it.
    """
    features = pre.shape[1]
    codes = np.arange(256).astype(np.uint8).view(np.int8)
    before, after = np.empty(features), np.empty(features)
    table = np.empty((features, 256), np.int8)
    for first in range(0, features, group):
        part = slice(first, first + group)
        scale = table_scale(pre[:, part].reshape(-1), activation)
        step = max(float(np.abs(activation(pre[:, part])).max()), _TINY) / 127
        before[part], after[part] = scale, step
        table[part] = np.clip(np.round(activation(codes * scale) / step), -128, 127)
    return Tables(before, table, after)
