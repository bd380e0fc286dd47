"""What a geometry takes of a device, without synthesis; tests hold it against synthesis.toml.

DSPs and memories follow from the RTL; LUTs and flip-flops are fitted to counts of yosys: estimates.
"""

from __future__ import annotations

import math

from espalier.targets.fpga.boards import Board
from espalier.targets.fpga.geometry import Geometry
from espalier.targets.fpga.synthesis import Resources

LIMITS = {"lut": 0.70, "ff": 0.50, "dsp": 0.80, "bram": 0.80, "uram": 0.80}
"""Parts of a device that a design may fill and still be routed; an assumption."""
_SHAPES = ((512, 36), (1024, 18), (2048, 9), (4096, 4), (8192, 2), (16384, 1))
"""Depth and width of a half (18 Kb) block memory."""


def bram(width: int, depth: int) -> float:
    """36 Kb blocks of a memory with one write and one read port."""
    halves = min(math.ceil(width / w) * math.ceil(depth / d) for d, w in _SHAPES)
    return halves / 2


def uram(width: int, depth: int) -> int:
    """288 Kb blocks."""
    return math.ceil(width / 72) * math.ceil(depth / 4096)


def estimate(g: Geometry, *, act_in_uram: bool = False) -> Resources:
    """LUTs, flip-flops, DSPs and 36 Kb blocks of the whole core."""
    lanes = g.width * g.tokens
    rest = g.pes * g.banks + g.banks * g.slot_bits
    memories = g.pes * bram(g.lanes * 8, g.wgt_depth) + bram(rest, g.wgt_depth)
    memories += bram(g.params_per_word * 64, g.par_depth)
    if not act_in_uram:
        memories += g.banks * bram(g.tokens * 8, g.act_depth)
    dsp = g.macs // 2 + 9 * lanes + 8
    lut = 13.0 * g.macs * math.log2(g.banks) / 3 + 60 * g.pes * g.tokens + 650 * lanes + 500 * g.tokens + 6000
    ff = 9.0 * g.macs + 64 * g.pes * g.tokens + 430 * lanes + 220 * g.tokens + 4000
    return Resources(round(lut), round(ff), dsp, memories)


def utilisation(g: Geometry, board: Board) -> dict[str, float]:
    """The part of each resource of a board that is taken; activations lie in URAM where there is any."""
    found = estimate(g, act_in_uram=board.uram > 0)
    used = {
        "lut": found.lut / board.lut,
        "ff": found.ff / board.ff,
        "dsp": found.dsp / board.dsp,
        "bram": found.bram / board.bram,
    }
    if board.uram:
        used["uram"] = g.banks * uram(g.tokens * 8, g.act_depth) / board.uram
    return used


def fits(g: Geometry, board: Board) -> bool:
    """Whether no resource is filled beyond its limit."""
    return all(part <= LIMITS[name] for name, part in utilisation(g, board).items())
