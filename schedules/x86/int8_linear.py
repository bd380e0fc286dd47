"""Linear kernels on integers over tiles: x is u8 `[ceil(M/16), K, 16]`, y f32 `[ceil(M/16), N, 16]`.

    for some tiles, for some lists of columns (in parallel)
      gather the list's columns of x, 4 (or 2) of them side by side in a token's 32 bits
      for a group of rows that walk along this list
        for a step: sums[row, tile] += dot(x[step, tile], W[row, step])
        y = act(Scale * sums + bias) + residual

Weights are s8 with a scale a row. Scale and zero point of x are constants, or a vector over the tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from espalier.schedules.linear import LinearKernel, LinearWork, Quantization
from espalier.schedules.x86 import int8_pack
from espalier.schedules.x86.column_lists import uniform
from espalier.schedules.x86.int8_dot import Dot, Form, dots
from espalier.schedules.x86.int8_shape import Int8Shape
from espalier.schedules.x86.int8_time import constant_bytes, milliseconds
from espalier.schedules.x86.tile_shape import MAX_COLUMNS
from espalier.sparsity import HP, NM
from espalier.targets.cpu import Cpu, Isa

if TYPE_CHECKING:
    import numpy as np
    from tvm.tirx import PrimFunc

    from espalier.sparsity import Packed

DENSE_HEIGHT = 96
"""Rows for which the columns are gathered once."""
BY_TOKEN = Quantization("token")
SHARED_ROWS = 4
"""Rows of a list from which on gathering for them alone beats multiplying the zeros of the block."""
GROUPED_JOB = 32
"""Rows of a job whose lists are short."""


@dataclass(frozen=True)
class Registers:
    """tiles: of 16 tokens for which columns are gathered at once. rows, vectors: rows of W and vectors of
    tokens whose sums stay in registers."""

    tiles: int
    rows: int
    vectors: int


REGISTERS: dict[tuple[Isa, Form], Registers] = {
    ("sse4", "chain"): Registers(1, 6, 1),
    ("sse4", "pairs"): Registers(1, 6, 2),
    ("avx2", "chain"): Registers(1, 8, 1),
    ("avx2", "pairs"): Registers(1, 6, 2),
    ("avx2", "vnni"): Registers(1, 6, 2),
    ("avx512", "chain"): Registers(4, 4, 2),
    ("avx512", "pairs"): Registers(4, 4, 4),
    ("avx512", "vnni"): Registers(4, 4, 4),
}


@dataclass(frozen=True)
class Int8Linear(LinearKernel):
    work: LinearWork
    cpu: Cpu
    shape: Int8Shape
    registers: Registers
    rows_first: bool

    @property
    def name(self) -> str:
        shape = self.shape
        kind = "dense" if shape.dense else "block" if shape.masked or shape.lists == 1 else "group"
        mode = "-token" if self.work.scaling == "token" else ""
        return f"u8-{kind}-{shape.dot.form}-r{shape.rows}v{self.registers.vectors}{mode}"

    @property
    def knobs(self) -> Mapping[str, int]:
        return {
            "rows": self.shape.rows,
            "vectors": self.registers.vectors,
            "tiles": self.registers.tiles,
            "height": self.shape.height,
            "rows_first": int(self.rows_first),
        }

    @property
    def levels(self) -> int:
        """The largest integer that x may hold."""
        return self.shape.dot.levels

    def pack(self, packed: Packed, quantization: Quantization = BY_TOKEN) -> tuple[np.ndarray, ...]:
        """The constants for activations that are quantised so (with all levels: `levels` is seen to here)."""
        return int8_pack.pack(self.shape, packed, quantization.at(self.levels))

    def func(self, name: str) -> PrimFunc:
        from espalier.schedules.x86 import build, int8_body

        tiles, vectors = self.registers.tiles, self.registers.vectors
        static = self.work.scaling == "static"
        return build.prim_func(
            name,
            lambda: int8_body.emit(
                self.shape, self.work.epilogue, tiles, vectors, self.cpu.lanes, static, self.rows_first
            ),
        )

    @property
    def constant_bytes(self) -> float:
        return constant_bytes(self.shape)

    def milliseconds(self, m: int, threads: int) -> float:
        return milliseconds(self.work, self.cpu, self.shape, self.registers.tiles, m, threads)


def candidates(work: LinearWork, cpu: Cpu) -> list[LinearKernel]:
    """The int8 kernels for `work`, the dense ones first; none where a sum could leave i32."""
    found: list[LinearKernel] = []
    for dot in dots(cpu, work.largest):
        if not dot.holds(work.k):
            continue
        registers = REGISTERS[cpu.isa, dot.form]
        for shape in _shapes(work, dot, registers.rows):
            # a block of W fits the L2 cache, where the tiles of x follow one another
            found.append(Int8Linear(work, cpu, shape, registers, rows_first=shape.dense))
    return found


def _shapes(work: LinearWork, dot: Dot, rows: int) -> list[Int8Shape]:
    n, k = work.n, work.k
    height = min(DENSE_HEIGHT, n)
    found = [Int8Shape(n, k, dot, height, _rows(rows, height), 1, k, dense=True)]
    form = uniform(work.structure, n, k)
    if form is None or k > MAX_COLUMNS:
        return found
    if form.share == form.block:
        found.append(Int8Shape(n, k, dot, form.block, _rows(rows, form.block), 1, form.count))
    else:
        # lists of a block with the zeros of its rows
        height = form.block
        if isinstance(work.structure, HP | NM):
            found.append(Int8Shape(n, k, dot, height, _rows(rows, height), 1, form.columns, masked=True))
        if form.share >= SHARED_ROWS:
            lists = max(1, GROUPED_JOB // form.share)
            found.append(Int8Shape(n, k, dot, form.share, _rows(rows, form.share), lists, form.count))
    return found


def _rows(wanted: int, height: int) -> int:
    """Rows at once: as few groups as `wanted` allows, then as even."""
    groups = -(-height // min(wanted, height))
    return -(-height // groups)
