"""An accelerator on a board, as a target."""

from __future__ import annotations

from dataclasses import dataclass

from espalier.targets.cpu import Cpu
from espalier.targets.fpga.boards import Board
from espalier.targets.fpga.geometry import Geometry
from espalier.targets.fpga.simulator import Timing


@dataclass(frozen=True)
class Fpga:
    """A board with an accelerator of one geometry; `host` runs what the accelerator does not."""

    name: str
    board: Board
    geometry: Geometry
    host: Cpu

    @property
    def kind(self) -> str:
        """As `Target`."""
        return "fpga"

    @property
    def clock_ghz(self) -> float:
        """The clock assumed for the board."""
        return self.board.mhz / 1e3

    @property
    def peak_gops(self) -> float:
        """int8 operations, a multiply-add counted as two."""
        return 2 * self.geometry.macs * self.clock_ghz

    @property
    def peak(self) -> str:
        """As `Target`."""
        return f"{self.peak_gops:.4g} GOP/s int8"

    @property
    def timing(self) -> Timing:
        """External memory of the board as this geometry sees it."""
        return self.board.timing(self.geometry)
