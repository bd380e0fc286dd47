"""The boards known, from boards.toml."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import resources
from typing import Literal

from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt

from espalier.targets.fpga.geometry import Geometry
from espalier.targets.fpga.simulator import Timing

MEMORY_EFFICIENCY = 0.7
"""Part of a memory's peak that long runs of words reach; an assumption."""
LATENCY_NS = 200
"""From a request to its data; an assumption."""


class Board(BaseModel):
    """One board; every figure as boards.toml says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    part: str
    lut: PositiveInt
    ff: PositiveInt
    dsp: PositiveInt
    bram: PositiveInt
    """36 Kb each"""
    uram: int
    """288 Kb each"""
    mhz: PositiveInt
    gbps: PositiveFloat
    usd: PositiveInt
    sure: Literal["high", "medium"]
    source: str

    @property
    def bytes_per_cycle(self) -> float:
        """Of external memory, at its assumed efficiency."""
        return self.gbps * 1e3 * MEMORY_EFFICIENCY / self.mhz

    def timing(self, geometry: Geometry) -> Timing:
        """External memory as an accelerator of this geometry sees it; at most a beat a cycle."""
        rate = min(1.0, self.bytes_per_cycle / geometry.bus)
        return Timing(
            latency=round(LATENCY_NS * self.mhz / 1e3), beats=max(1, round(rate * 1000)), cycles=1000
        )

    def milliseconds(self, cycles: float) -> float:
        """Time of so many cycles at the assumed clock."""
        return cycles / (self.mhz * 1e3)


@cache
def boards() -> dict[str, Board]:
    """All boards by name, cheapest first."""
    data = tomllib.loads(resources.files("espalier.targets.fpga").joinpath("boards.toml").read_text())
    found = sorted((Board(**row) for row in data["board"]), key=lambda board: (board.usd, board.name))
    return {board.name: board for board in found}
