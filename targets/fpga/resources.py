"""What a geometry takes of a device, without synthesis; tests hold it against synthesis.toml.

DSPs and memories follow from the RTL; LUTs and flip-flops are fitted to counts of yosys: estimates.
"""

from __future__ import annotations

import math

from espalier.targets.fpga.boards import Board
from espalier.targets.fpga.geometry import Geometry
from espalier.targets.fpga.synthesis import Resources

LIMITS = {"lut": 0.85, "ff": 0.50, "dsp": 0.80, "bram": 0.80, "uram": 0.80}
"""Parts of a device that a design may fill and still be routed; an assumption. yosys counts a LUT for every
function; two of up to five inputs together share one, so the part really filled is a quarter less or so."""
_SHAPES = ((512, 36), (1024, 18), (2048, 9), (4096, 4), (8192, 2), (16384, 1))
"""Depth and width of a half (18 Kb) block memory."""
_MULTIPLEXER = {1: 0, 2: 1, 4: 1, 8: 3, 16: 5, 32: 11}
"""LUTs a bit, by inputs."""


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
    accumulators = g.pes * g.tokens
    rest = g.pes * g.banks + g.banks * g.slot_bits
    memories = g.pes * bram(g.lanes * 8, g.wgt_depth) + bram(rest, g.wgt_depth)
    memories += bram(g.params_per_word * 64, g.par_depth)
    if not act_in_uram:
        memories += g.banks * bram(g.tokens * 8, g.act_depth)
    # a lane has 7 in norm_lane.sv and 2 in post_lane.sv; the radicands in vector.sv take 7
    dsp = g.macs // 2 + 9 * lanes + 7
    lut = g.pes * pe_luts(g) + 30 * accumulators + 930 * lanes + 560 * g.tokens + 24 * g.word_bytes + 3500
    ff = 82 * accumulators + 16 * g.pes * g.lanes + 170 * lanes + 310 * g.tokens + 3000
    return Resources(round(lut), round(ff), dsp, memories)


def pe_luts(g: Geometry) -> float:
    """LUTs of one processing element: a multiplexer of the banks for each lane, adders, accumulators."""
    return g.lanes * g.tokens * (8 * _MULTIPLEXER[g.banks] + 18.5) + 48 * g.tokens


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
