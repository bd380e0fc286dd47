"""What the compute instructions mean, on whole int8 tensors `[tokens, features]` in numpy.

Independent of tiles, banks and geometry: the reference that both simulators are held against, and the
quick way to run a quantised model exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Activation = Literal["NONE", "RELU", "TABLE"]


@dataclass(frozen=True)
class Scale:
    """`x * mul / 2^shift`; int64 arrays that broadcast."""

    mul: np.ndarray
    shift: np.ndarray


def bit_length(x: np.ndarray) -> np.ndarray:
    """Bits of non-negative int64, 0 for 0; exact below 2^52."""
    return np.frexp(x.astype(np.float64))[1]


def reciprocal(x: np.ndarray) -> Scale:
    """1 / x of non-negative integers below 2^40; (0, 0) for 0."""
    bits = bit_length(x)
    shift = np.where(x > 0, 15 + bits, 0).astype(np.int64)
    quotient = (np.int64(1) << shift) // np.maximum(x, 1)
    return Scale(np.where(x > 0, np.minimum(quotient, 65535), 0), shift)


def isqrt(x: np.ndarray) -> np.ndarray:
    """floor(sqrt(x)) of non-negative int64 below 2^58."""
    root = np.sqrt(x.astype(np.float64)).astype(np.int64)
    root = np.where(root * root > x, root - 1, root)
    return np.where((root + 1) * (root + 1) <= x, root + 1, root)


def round_shift(x: np.ndarray, shift: np.ndarray | int) -> np.ndarray:
    """x / 2^shift, halves up."""
    shift = np.asarray(shift, np.int64)
    return (x + ((np.int64(1) << shift) >> 1)) >> shift


def clamp8(x: np.ndarray) -> np.ndarray:
    """To int8."""
    return np.clip(x, -128, 127).astype(np.int8)


def activate(x: np.ndarray, activation: Activation, table: np.ndarray | None) -> np.ndarray:
    """int8 `[M, N]` to int8. `table`: int8 `[256]`, or `[N, 256]` a row; indexed by the int8 as uint8."""
    if activation == "RELU":
        return np.maximum(x, 0)
    if activation == "TABLE":
        assert table is not None
        return table[x.view(np.uint8)] if table.ndim == 1 else table[np.arange(len(table)), x.view(np.uint8)]
    return x


def linear(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    scale: Scale,
    activation: Activation = "NONE",
    table: np.ndarray | None = None,
) -> np.ndarray:
    """int8 `[M, K]` by int8 `[N, K]` to int8 `[M, N]`; `scale` a row (`[N]`) or a token (`[M, 1]`)."""
    # exact: |acc| <= 2^14 K < 2^53
    acc = (x.astype(np.float64) @ weight.T.astype(np.float64)).astype(np.int64) + bias
    acc = acc.astype(np.int32).astype(np.int64)
    return activate(clamp8(round_shift(acc * scale.mul, scale.shift)), activation, table)


def key_bias(mask: np.ndarray, unit: float) -> np.ndarray:
    """The bias of LINEAR that adds `mask [keys]` to scores of which an accumulator's 1 is `unit`, int64.

    A key masked by minus infinity, or any large number, gets a score of -128, which SOFTMAX takes as absent.
    """
    most = float(1 << 30)
    return np.clip(np.round(np.asarray(mask, np.float64) / unit), -most, most).astype(np.int64)


def hidden(mask: np.ndarray) -> np.ndarray:
    """int8 -128 where a mask, added to scores, hides a key; 0 elsewhere. Raises ValueError for others."""
    if ((mask != 0) & (mask > -1e3)).any():
        raise ValueError("a mask over queries and keys that is neither 0 nor below -1000")
    return np.where(mask == 0, 0, -128).astype(np.int8)


def softmax(scores: np.ndarray, table: np.ndarray) -> tuple[np.ndarray, Scale]:
    """int8 `[M, K]` to int8 exponentials `[M, K]` and the scale `[M, 1]` that divides by their sum."""
    wide = scores.astype(np.int64)
    index = (wide.max(1, keepdims=True) - wide).astype(np.uint8)
    out = np.where(scores == -128, 0, table[index]).astype(np.int8)
    return out, reciprocal(out.view(np.uint8).astype(np.int64).sum(1, keepdims=True))


@dataclass(frozen=True)
class NormParams:
    """Parameters of NORM; arrays int64 `[K]`."""

    a: np.ndarray
    b: np.ndarray
    gamma: np.ndarray
    beta: np.ndarray
    eps: int
    shift: int


def norm(x: np.ndarray, residual: np.ndarray, params: NormParams, *, stats: bool) -> np.ndarray:
    """int8 `[M, K]` plus int8 `[M, K]`, with `stats` normalised over K, to int8 `[M, K]`."""
    z = np.clip(
        round_shift(x.astype(np.int64) * params.a + residual.astype(np.int64) * params.b, 8), -32768, 32767
    )
    n = z
    if stats:
        count = z.shape[1]
        total = z.sum(1, keepdims=True)
        root = isqrt(count * (z * z).sum(1, keepdims=True) - total * total + params.eps)
        scale = reciprocal(root)
        n = np.clip(
            round_shift((z * count - total) * scale.mul, np.maximum(scale.shift - 10, 0)), -32768, 32767
        )
    y = n * params.gamma + params.beta * (1 << (params.shift - 7))
    return clamp8(round_shift(y, params.shift))
