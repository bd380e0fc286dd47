"""Linear kernels over tiles of 16 tokens, x and y being f32 `[ceil(M/16), features, 16]`.

`rows` rows of W times `tiles` tiles of tokens are summed in registers at once, while the kernel walks along
lists of columns:

    for some tiles, for a block of rows (in parallel)
      for a chunk of the lists, short enough that its columns of x stay in the L1 cache
        for a group of rows
          for an entry of the list (for four of them, where every row has its own list)
            sums[row, tile] += W[entry, row] * X[tile, column[entry], 0:16]

The constants are read in the order in which they lie in memory. A chunk leaves its sums in Y, where the next
one picks them up; the last one applies the epilogue. Tiles that are left over are done in halves of `tiles`,
with as many more groups of rows at once, so that the registers stay full. A last tile of at most 8 tokens is
done with vectors of 4 lanes, one or two; where the number of tokens is known, together with the tiles before
it if the registers allow, so that weights and lists are not read again.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from espalier.schedules.linear import LinearKernel, LinearWork
from espalier.schedules.x86 import tile_pack
from espalier.schedules.x86.linear_space import tile_settings
from espalier.schedules.x86.linear_time import tile_bytes, tile_milliseconds
from espalier.schedules.x86.tile_shape import TileShape
from espalier.targets.cpu import Cpu

if TYPE_CHECKING:
    import numpy as np
    from tvm.tirx import PrimFunc

    from espalier.sparsity import Packed

KINDS = {"empty": "zero", "none": "dense", "block": "block", "group": "group", "row": "row"}


@dataclass(frozen=True)
class TileLinear(LinearKernel):
    """tiles: tiles of tokens in registers at once. rows_first: all tiles of a block of rows before the next
    block of rows, rather than all blocks for some tiles before the next tiles. fixed: the number of tokens,
    where the function is for no other."""

    counts_tokens = True
    work: LinearWork
    cpu: Cpu
    shape: TileShape
    tiles: int
    rows_first: bool = False
    fixed: int | None = None

    @property
    def name(self) -> str:
        shape = self.shape
        kind = ("ragged" if shape.ragged else "") + KINDS[shape.lists]
        order = "b" if self.rows_first else ""
        return f"f32-{kind}-r{shape.rows}m{self.tiles}h{shape.height}c{shape.width or shape.count}{order}"

    @property
    def knobs(self) -> Mapping[str, int]:
        shape = self.shape
        return {
            "rows": shape.rows,
            "tiles": self.tiles,
            "height": shape.height,
            "chunk": shape.width or shape.count,
            "rows_first": int(self.rows_first),
        }

    @property
    def code(self) -> Hashable:
        return (type(self), self.shape, self.work.epilogue, self.tiles, self.rows_first, self.fixed)

    def variants(self) -> list[TileLinear]:
        return [
            TileLinear(self.work, self.cpu, shape, tiles, rows_first)
            for shape, tiles, rows_first in tile_settings(
                self.work, self.cpu, self.shape, self.tiles, self.rows_first
            )
        ]

    def pack(self, packed: Packed) -> tuple[np.ndarray, ...]:
        return tile_pack.pack(self.shape, packed)

    def func(self, name: str) -> PrimFunc:
        from espalier.schedules.x86 import build, tile_body

        emit = partial(tile_body.emit, self.shape, self.work.epilogue, self.tiles, self.rows_first)
        return build.prim_func(name, lambda: emit(self.cpu.lanes, self.fixed))

    def for_tokens(self, m: int) -> TileLinear:
        return replace(self, fixed=m)

    @property
    def constant_bytes(self) -> float:
        return tile_bytes(self.work, self.shape)

    def milliseconds(self, m: int, threads: int) -> float:
        return tile_milliseconds(self.work, self.cpu, self.shape, self.tiles, m, threads)
