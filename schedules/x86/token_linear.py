"""Linear kernels over rows of tokens, x and y being f32 `[M, features]`, for a layer that stands alone.

Rows of W lie on the lanes. A block of them is summed in registers for `tokens` tokens at once, along the
columns that the block keeps:

    for a block of rows, for some tokens (in parallel)
      for a column that the block keeps
        sums[token, 0:lanes] += X[token, column] * W[column, 0:lanes]

The last tokens are done in halves of `tokens`, several columns at once where sums would be too few. Rows of a
block that keep less than the block does (HP) multiply zeros.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from espalier.schedules.linear import LinearKernel, LinearWork
from espalier.schedules.x86 import token_shape
from espalier.schedules.x86.linear_space import token_settings
from espalier.schedules.x86.linear_time import token_bytes, token_milliseconds
from espalier.schedules.x86.token_shape import TokenShape
from espalier.targets.cpu import Cpu

if TYPE_CHECKING:
    import numpy as np
    from tvm.tirx import PrimFunc

    from espalier.sparsity import Packed

SUMS = {"sse4": 2, "avx2": 6, "avx512": 24}
"""Vectors of 16 sums that fit the registers."""


@dataclass(frozen=True)
class TokenLinear(LinearKernel):
    """tokens: rows of x in registers at once. entries: columns that an average block keeps."""

    work: LinearWork
    cpu: Cpu
    shape: TokenShape
    tokens: int
    entries: float

    @property
    def name(self) -> str:
        kind = "dense" if self.shape.dense else "lane"
        return f"f32-tokens-{kind}-t{self.tokens}h{self.shape.height}"

    @property
    def knobs(self) -> Mapping[str, int]:
        return {"tokens": self.tokens, "height": self.shape.height}

    @property
    def code(self) -> Hashable:
        return (type(self), self.shape, self.work.epilogue, self.tokens)

    def variants(self) -> list[TokenLinear]:
        return [
            TokenLinear(self.work, self.cpu, shape, tokens, entries)
            for shape, tokens, entries in token_settings(
                self.work, self.cpu, self.shape, self.tokens, self.entries
            )
        ]

    def pack(self, packed: Packed) -> tuple[np.ndarray, ...]:
        return token_shape.pack(self.shape, packed)

    def func(self, name: str) -> PrimFunc:
        from espalier.schedules.x86 import build, token_body

        sums = SUMS[self.cpu.isa]
        return build.prim_func(
            name, lambda: token_body.emit(self.shape, self.work.epilogue, self.tokens, sums)
        )

    @property
    def constant_bytes(self) -> float:
        return token_bytes(self.shape, self.entries)

    def milliseconds(self, m: int, threads: int) -> float:
        return token_milliseconds(self.work, self.cpu, self.shape, self.tokens, self.entries, m, threads)
