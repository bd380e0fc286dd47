"""The linear kernels for x86: which fit a layer, and with which knobs."""

from __future__ import annotations

from dataclasses import dataclass

from espalier.schedules.linear import LinearKernel, LinearWork
from espalier.schedules.x86 import int8_linear
from espalier.schedules.x86.column_lists import Uniform, kept_by_block, uniform
from espalier.schedules.x86.select_linear import TOKENS as SELECT_TOKENS
from espalier.schedules.x86.select_linear import SelectLinear
from espalier.schedules.x86.select_shape import select_shape
from espalier.schedules.x86.tile_linear import TileLinear
from espalier.schedules.x86.tile_shape import MAX_COLUMNS, Lists, TileShape
from espalier.schedules.x86.token_linear import TokenLinear
from espalier.schedules.x86.token_shape import TokenShape
from espalier.sparsity import BP, HP, Block, Dense, Structure, Zero
from espalier.targets.cpu import Cpu


@dataclass(frozen=True)
class Registers:
    """Rows of W and tiles of 16 tokens whose sums stay in registers."""

    rows: int
    tiles: int


SHARED = {"sse4": Registers(2, 1), "avx2": Registers(6, 1), "avx512": Registers(4, 4)}
"""Where rows share a list, a column of x is loaded once for all of them."""
OWN = {"sse4": Registers(2, 1), "avx2": Registers(2, 2), "avx512": Registers(4, 4)}
"""Where every row has a list of its own, more tiles save loads of weights and columns."""

TOKENS = {"sse4": (2, 16), "avx2": (6, 16), "avx512": (8, 32)}
"""Rows of x, and rows of W on the lanes, whose sums stay in registers."""

DENSE_HEIGHT = 96
RAGGED_HEIGHT = 256
UNIFORM_HEIGHT = 64
"""Rows of a block, where the structure leaves the choice."""
RAGGED_ENTRIES = 40
"""Entries of a ragged list in a chunk that pay for picking up the sums (measured on Zen 1, 50 to 95 %)."""
BYTES: dict[Lists, float] = {"row": 6.0, "group": 4.5, "block": 4.0}
"""Of a kept weight with its part of the lists of columns."""
SHARED_L1, OWN_L1 = 1.0, 0.6
"""Part of the L1 cache that the columns of a chunk may fill. A shared column is loaded once for all rows of a
group, which leaves time to fetch it from the L2 cache."""


def candidates(work: LinearWork, cpu: Cpu) -> list[LinearKernel]:
    """Every kernel that can run `work`, the dense one first; integers need tiles."""
    if work.dtype == "int8":
        return int8_linear.candidates(work, cpu) if work.layout == "tiles" else []
    if work.layout == "tokens":
        return _over_tokens(work, cpu)
    found: list[LinearKernel] = [_dense(work, cpu)]
    form = uniform(work.structure, work.n, work.k)
    match work.structure:
        case Dense():
            return found
        case Zero():
            shape = TileShape(work.n, work.k, "empty", min(32, work.n), min(4, work.n))
            return [*found, TileLinear(work, cpu, shape, 1)]
    if work.k > MAX_COLUMNS:
        return found
    if form is not None:
        if form.share == form.block:
            found.append(_uniform(work, cpu, "block", form))
        elif form.share > 1:
            found.append(_uniform(work, cpu, "group", form))
        found.append(_uniform(work, cpu, "row", form))
    if isinstance(work.structure, Block) and work.structure.bh > 1:
        found.append(_ragged(work, cpu, "group", work.structure.bh))
    found.append(_ragged(work, cpu, "row"))
    return found


def _over_tokens(work: LinearWork, cpu: Cpu) -> list[LinearKernel]:
    tokens, lanes = TOKENS[cpu.isa]
    found: list[LinearKernel] = [
        TokenLinear(work, cpu, TokenShape(work.n, work.k, lanes, dense=True), tokens, work.k)
    ]
    if isinstance(work.structure, Dense) or work.k > MAX_COLUMNS:
        return found
    height = _lane_height(work.structure, lanes)
    shape = TokenShape(work.n, work.k, height, dense=False)
    kept = kept_by_block(work.structure, work.n, work.k, height)
    found.append(TokenLinear(work, cpu, shape, tokens, kept))
    selected = select_shape(work.structure, work.n, work.k)
    if selected is not None and cpu.isa in SELECT_TOKENS:
        found.append(SelectLinear(work, cpu, selected, SELECT_TOKENS[cpu.isa]))
    return found


def _lane_height(structure: Structure, lanes: int) -> int:
    """Rows on the lanes: blocks of the structure are not mixed where that keeps the lanes full."""
    block = structure.B if isinstance(structure, BP | HP) else lanes
    return min(block, lanes) if block % 16 == 0 or block < lanes else lanes


def _chunk(cpu: Cpu, lists: Lists) -> int:
    """Columns of the tiles in registers that stay in the L1 cache."""
    own = lists == "row"
    room = cpu.l1_bytes * (OWN_L1 if own else SHARED_L1)
    return max(int(room) // ((OWN if own else SHARED)[cpu.isa].tiles * 64), 16)


def _dense(work: LinearWork, cpu: Cpu) -> TileLinear:
    registers = SHARED[cpu.isa]
    chunks = -(-work.k // _chunk(cpu, "none"))
    height = min(DENSE_HEIGHT, work.n)
    shape = TileShape(work.n, work.k, "none", height, registers.rows, chunks, -(-work.k // chunks))
    # a block of W fits the L2 cache, where the tiles of x follow one another
    return TileLinear(work, cpu, shape, registers.tiles, rows_first=True)


def _uniform(work: LinearWork, cpu: Cpu, lists: Lists, form: Uniform) -> TileLinear:
    registers = OWN[cpu.isa] if lists == "row" else SHARED[cpu.isa]
    share = {"row": 1, "group": form.share, "block": form.block}[lists]
    rows = registers.rows if lists == "row" else _rows(registers.rows, share, even=lists == "group")
    chunks = -(-form.columns // _chunk(cpu, lists))
    unit = 4 if lists == "row" else 1
    count = -(-form.count // (chunks * unit)) * unit
    shape = TileShape(work.n, work.k, lists, _height(form.block, work.n, rows), rows, chunks, count)
    # constants that no cache holds are read once in all, rather than once for some tiles
    rows_first = work.n * form.count * BYTES[lists] > max(cpu.l2_bytes, cpu.l3_bytes)
    return TileLinear(work, cpu, shape, registers.tiles, rows_first)


def _ragged(work: LinearWork, cpu: Cpu, lists: Lists, share: int = 1) -> TileLinear:
    registers = OWN[cpu.isa] if lists == "row" else SHARED[cpu.isa]
    rows = registers.rows if lists == "row" else _rows(registers.rows, share, even=True)
    density = 1 - work.structure.sparsity((work.n, work.k))
    width = max(_chunk(cpu, lists), int(RAGGED_ENTRIES / max(density, 1 / work.k)))
    chunks = -(-work.k // width)
    unit = rows if lists == "row" else share
    height = unit * max(1, min(RAGGED_HEIGHT, work.n) // unit)
    shape = TileShape(work.n, work.k, lists, height, rows, chunks, 0, -(-work.k // chunks))
    return TileLinear(work, cpu, shape, registers.tiles)


def _rows(wanted: int, share: int, even: bool) -> int:
    """Rows at once of `share` that have a list in common; even: no group of them may be short."""
    counts = [rows for rows in range(1, wanted + 1) if not even or share % rows == 0]
    # a step loads one vector of x and a weight a row
    return min(counts, key=lambda rows: (-(-share // rows) * (rows + 1.5), -rows))


def _height(block: int, n: int, rows: int) -> int:
    """Rows that a core does in one go: a block of the structure, or an equal part of a tall one."""
    if block <= UNIFORM_HEIGHT:
        return block
    if block >= n:
        return -(-min(UNIFORM_HEIGHT, n) // rows) * rows
    parts = [height for height in range(rows, UNIFORM_HEIGHT + 1, rows) if block % height == 0]
    return max(parts, default=block)
