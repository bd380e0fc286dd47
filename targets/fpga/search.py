"""Fills a board: the geometry that runs a set of encoders fastest within the limits of its resources."""

from __future__ import annotations

import itertools
import math
import sys
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import astuple, replace
from functools import cache
from importlib import resources

from espalier.errors import ConstraintError
from espalier.targets.fpga import encoder as encoders
from espalier.targets.fpga import latency
from espalier.targets.fpga.boards import Board, boards
from espalier.targets.fpga.encoder import Encoder, Pruning
from espalier.targets.fpga.geometry import Geometry
from espalier.targets.fpga.resources import estimate, fits

REFERENCE = (encoders.TINYBERT, encoders.TRANSFORMER)
"""What a board's standard geometry is chosen by, at the pruning and tokens below."""
PRUNING = Pruning(columns=0.5, n=4)
TOKENS = 128
BANKS = 8
"""The v of HP that the standard geometries are made for."""


def candidates(board: Board) -> Iterator[Geometry]:
    """All geometries that the search looks at, whether they fit or not.

    Activations hold the first of REFERENCE at TOKENS, all of it, or twice as much.
    """
    beat = 2 ** math.ceil(math.log2(board.bytes_per_cycle))
    for pes, lanes, tokens, width in itertools.product(
        (8, 16, 32, 64, 128), (2, 4, 8), (8, 16), (1, 2, 4, 8)
    ):
        if pes % tokens:
            continue
        bus = min(max(16, beat), BANKS * tokens, 128)
        g = Geometry(pes, lanes, BANKS, tokens, width, bus, 8, 1024, 1024, 512, 128)
        words = [-(-encoders.activation_words(m, TOKENS, g) // 512) * 512 for m in REFERENCE]
        for depth in {words[0], max(words), 2 * max(words)}:
            yield replace(g, act_depth=depth)


def cycles(g: Geometry, board: Board, models: Sequence[Encoder], tokens: int, pruning: Pruning) -> float:
    """Of all `models` together."""
    timing = board.timing(g)
    return sum(latency.total(encoders.costs(m, tokens, pruning, g, timing), timing) for m in models)


def search(board: Board) -> Geometry:
    """The geometry with fewest predicted cycles of REFERENCE, then fewest LUTs, then most activations.

    Raises ConstraintError when nothing fits.
    """
    ranked = [
        (cycles(g, board, REFERENCE, TOKENS, PRUNING), estimate(g).lut, -g.act_depth, g)
        for g in candidates(board)
        if fits(g, board)
    ]
    if not ranked:
        raise ConstraintError(
            f"no geometry fits {board.name}: {board.lut} LUT, {board.dsp} DSP, {board.bram} block memories",
            hint="take a larger board",
        )
    return min(ranked, key=lambda row: row[:3])[3]


@cache
def _stored() -> dict[str, Geometry]:
    data = tomllib.loads(resources.files("espalier.targets.fpga").joinpath("geometries.toml").read_text())
    return {name: Geometry(*sizes) for name, sizes in data.items()}


def standard(board: Board) -> Geometry:
    """The geometry that `search` found for a board; kept in geometries.toml."""
    return _stored()[board.name]


def main() -> None:
    """Search all boards and print geometries.toml."""
    sys.stdout.write("# By python -m espalier.targets.fpga.search. Sizes in the order of geometry.py.\n")
    for board in boards().values():
        sys.stdout.write(f"{board.name} = {list(astuple(search(board)))}\n")


if __name__ == "__main__":
    main()
