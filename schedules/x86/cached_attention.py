"""Attention of new tokens over a cache of keys and values, and over their own: softmax(scale Q K^T + mask) V.

How it runs is in cached_attention_body.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from espalier.schedules.x86.attention import ROWS, Mask
from espalier.targets.cpu import Cpu

if TYPE_CHECKING:
    from tvm.tirx import PrimFunc


@dataclass(frozen=True)
class CachedAttentionWork:
    """For any batch B, S new tokens and P tokens before them.

    mask: its last dimension is P + S, the cache first. nan_to_zero: a query that sees no key gets 0 instead
    of NaN.
    """

    heads: int
    head_dim: int
    value_dim: int
    scale: float
    mask: Mask | None = None
    nan_to_zero: bool = False


def cached_attention(work: CachedAttentionWork, cpu: Cpu, name: str) -> PrimFunc:
    """The function.

    Parameters: query f32 [n, B, heads, S, head_dim], cached keys [n, B, heads, P, head_dim], cached values
    [n, B, heads, P, value_dim], new keys and new values [n, B, heads, S, ..], [mask], five int64 that say
    which of the n of each of them to take, in this order, and y f32 [B, S, heads * value_dim]. The n differ.
    """
    from espalier.schedules.x86.build import prim_func
    from espalier.schedules.x86.cached_attention_body import emit

    return prim_func(name, lambda: emit(work, ROWS[cpu.isa]))
