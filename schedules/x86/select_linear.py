"""Linear layers of few tokens by a hierarchically pruned matrix: lanes select their columns in registers.

At M = 1 the bytes of the weights are the time. The kernel of token_linear.py multiplies all columns that a
block of rows keeps; here only what a row keeps is stored, with 2 bits each that say where in its vector of
four columns it stands. Rows lie on the lanes, the four columns of x stand in every 128 bits of a register,
and a permutation by those bits brings each lane its own:

    for a block of rows, for some tokens (in parallel)
      for a vector of 4 kept columns, for a weight that each row keeps of it
        sums[token, 0:lanes] += permute(X[token, 4 columns], S[0:lanes]) * W[0:lanes]
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from espalier.schedules.linear import LinearKernel, LinearWork
from espalier.schedules.x86 import select_shape
from espalier.schedules.x86.linear_time import select_bytes, select_milliseconds
from espalier.schedules.x86.select_shape import SelectShape
from espalier.targets.cpu import Cpu, Isa

if TYPE_CHECKING:
    import numpy as np
    from tvm.tirx import PrimFunc

    from espalier.sparsity import Packed

TOKENS: dict[Isa, int] = {"avx2": 2, "avx512": 4}
"""Rows of x whose sums fit the registers beside the selection; SSE4 cannot permute by a register."""


@dataclass(frozen=True)
class SelectLinear(LinearKernel):
    """tokens: rows of x in registers at once."""

    work: LinearWork
    cpu: Cpu
    shape: SelectShape
    tokens: int

    @property
    def name(self) -> str:
        return f"f32-tokens-select-t{self.tokens}h{self.shape.height}"

    @property
    def knobs(self) -> Mapping[str, int]:
        return {"tokens": self.tokens}

    @property
    def code(self) -> Hashable:
        return (type(self), self.shape, self.work.epilogue, self.tokens)

    def variants(self) -> list[SelectLinear]:
        settings = [self.tokens, *(tokens for tokens in (2, 3, 4) if tokens != self.tokens)]
        return [SelectLinear(self.work, self.cpu, self.shape, tokens) for tokens in settings]

    def pack(self, packed: Packed) -> tuple[np.ndarray, ...]:
        return select_shape.pack(self.shape, packed)

    def func(self, name: str) -> PrimFunc:
        from espalier.schedules.x86 import build, select_body

        return build.prim_func(
            name, lambda: select_body.emit(self.shape, self.work.epilogue, self.tokens, self.cpu.lanes)
        )

    @property
    def constant_bytes(self) -> float:
        return select_bytes(self.shape)

    def milliseconds(self, m: int, threads: int) -> float:
        return select_milliseconds(self.work, self.cpu, self.shape, self.tokens, m, threads)
