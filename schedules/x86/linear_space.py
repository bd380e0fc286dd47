"""Which settings of their knobs the linear kernels can be tuned over.

A setting is listed where the kernel is right with it and its sums fit the registers; what is best depends on
the machine and is found by measuring (espalier.search).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

from espalier.schedules.linear import LinearWork
from espalier.schedules.x86.column_lists import kept_by_block, uniform
from espalier.schedules.x86.tile_shape import TileShape
from espalier.schedules.x86.token_shape import TokenShape
from espalier.sparsity import Block
from espalier.targets.cpu import Cpu

ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 12)
TILES = (1, 2, 4)
TOKENS = (2, 3, 4, 6, 8, 12)
LEAST_SUMS = 4
"""Vectors of sums below which the core waits for each multiply-add."""
OTHER_REGISTERS = 2
"""Registers that hold no sums: an operand and a broadcast weight."""
MOST_LISTS = 8
"""Rows with lists of their own: each needs a general register."""
HEIGHTS = (16, 32, 64, 96, 128, 192, 256, 512)
LANES = (16, 32, 64)
CHUNKS = (0.5, 1.0, 2.0)
"""Pieces of a list, as a multiple of what the kernel takes by itself."""

TileSetting = tuple[TileShape, int, bool]
TokenSetting = tuple[TokenShape, int, float]


def tile_settings(
    work: LinearWork, cpu: Cpu, shape: TileShape, tiles: int, rows_first: bool
) -> list[TileSetting]:
    """(shape, tiles, rows_first) of the kernel over tiles, the given one first, each once."""
    found = {(shape, tiles, rows_first): None}
    if shape.lists != "empty":
        for rows in (rows for rows in ROWS if _allowed_rows(work, shape, rows)):
            at_once = [count for count in TILES if _fits(cpu, rows * count)]
            for height, chunks in product(
                _heights(work, shape, rows) if at_once else (), _chunk_counts(shape)
            ):
                cut = _cut(work, shape, rows, height, chunks)
                found |= dict.fromkeys(product((cut,), at_once, (False, True)))
    return list(found)


def token_settings(
    work: LinearWork, cpu: Cpu, shape: TokenShape, tokens: int, entries: float
) -> list[TokenSetting]:
    """(shape, tokens, kept columns) of the kernel over rows of tokens, the given one first, each once."""
    found = {(shape, tokens, entries): None}
    for at_once, height in product(TOKENS, (shape.height, *LANES)):
        cut = replace(shape, height=height)
        if _fits(cpu, at_once * cut.lanes // 16) and height < work.n + 16:
            kept = work.k if shape.dense else kept_by_block(work.structure, work.n, work.k, height)
            found[cut, at_once, kept] = None
    return list(found)


def _fits(cpu: Cpu, sums: int) -> bool:
    """Whether so many times 16 sums keep the core busy and stay in registers."""
    vectors = sums * 16 // cpu.lanes
    return LEAST_SUMS <= vectors <= cpu.registers - OTHER_REGISTERS


def _allowed_rows(work: LinearWork, shape: TileShape, rows: int) -> bool:
    if rows > work.n:
        return False
    if shape.lists == "row":
        return rows <= MOST_LISTS
    return shape.lists != "group" or _share(work) % rows == 0


def _share(work: LinearWork) -> int:
    """Rows that have a list in common."""
    if isinstance(work.structure, Block):
        return work.structure.bh
    form = uniform(work.structure, work.n, work.k)
    return 1 if form is None else form.share


def _heights(work: LinearWork, shape: TileShape, rows: int) -> Iterator[int]:
    """Rows of a block: whole groups, and no two lists in what must have one."""
    form = uniform(work.structure, work.n, work.k)
    for height in sorted({shape.height, *HEIGHTS}):
        if height >= work.n + rows and height != shape.height:
            continue
        if shape.lists == "block":
            assert form is not None
            if height == form.block or (form.block % height == 0 and height % rows == 0):
                yield height
        elif shape.lists == "group":
            if height % _share(work) == 0:
                yield height
        elif height % rows == 0:
            yield height


def _chunk_counts(shape: TileShape) -> list[int]:
    return sorted({max(1, round(shape.chunks * factor)) for factor in CHUNKS})


def _cut(work: LinearWork, shape: TileShape, rows: int, height: int, chunks: int) -> TileShape:
    """The shape with other rows, height and number of chunks."""
    if shape.ragged:
        width = -(-work.k // chunks)
        return TileShape(work.n, work.k, shape.lists, height, rows, -(-work.k // width), 0, width)
    form = None if shape.lists == "none" else uniform(work.structure, work.n, work.k)
    entries = work.k if form is None else form.count
    unit = 4 if shape.lists == "row" else 1
    count = -(-entries // (chunks * unit)) * unit
    return TileShape(work.n, work.k, shape.lists, height, rows, -(-entries // count), count)
