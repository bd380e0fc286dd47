"""Self-attention over tiles: softmax(scale Q K^T + mask) V of all heads, with no matrix of S x S.

How it runs is in attention_body.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from espalier.targets.cpu import Cpu, Isa

if TYPE_CHECKING:
    from tvm.tirx import PrimFunc

ROWS: dict[Isa, int] = {"sse4": 2, "avx2": 6, "avx512": 16}
"""Vectors of 16 sums that registers hold beside their operands."""


@dataclass(frozen=True)
class Channels:
    """Where the heads lie in a tensor of tiles: side by side from channel `first` on, of `total`."""

    total: int
    first: int = 0


@dataclass(frozen=True)
class Mask:
    """[B|1, H|1, S|1, S]: f32 that is added to the scores, or bool that says which ones to keep."""

    kind: Literal["add", "keep"]
    batch: bool
    heads: bool
    queries: bool
    """Whether the mask differs between batches, heads, queries; its dimension is 1 otherwise."""


@dataclass(frozen=True)
class AttentionWork:
    """Self-attention for any batch B and sequence S.

    Without `query`, `key` or `value` the tensor holds just the heads. causal: a query sees no later key.
    nan_to_zero: a query that sees no key gets 0 instead of NaN.
    """

    heads: int
    head_dim: int
    value_dim: int
    scale: float
    mask: Mask | None = None
    causal: bool = False
    nan_to_zero: bool = False
    query: Channels | None = None
    key: Channels | None = None
    value: Channels | None = None


def attention(work: AttentionWork, cpu: Cpu, name: str) -> PrimFunc:
    """The function.

    Parameters: query, key, value f32 [T, channels, 16], [mask], the int64 numbers batch and sequence, and
    y f32 [T, heads * value_dim, 16], with T = ceil(batch * sequence / 16).
    """
    from espalier.schedules.x86.attention_body import emit
    from espalier.schedules.x86.build import prim_func

    return prim_func(name, lambda: emit(work, ROWS[cpu.isa]))
