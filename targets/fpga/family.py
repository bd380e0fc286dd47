"""The FPGA boards as the registry sees them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

from espalier.errors import UnavailableError, UsageError, unknown
from espalier.targets.device import Device, Figure
from espalier.targets.fpga.boards import LATENCY_NS, MEMORY_EFFICIENCY, Board, boards
from espalier.targets.fpga.geometry import Geometry
from espalier.targets.fpga.resources import LIMITS, estimate, utilisation
from espalier.targets.fpga.search import standard
from espalier.targets.fpga.target import Fpga
from espalier.targets.host import host
from espalier.targets.x86.classes import core_classes

KIND = "fpga"
STANDARD_BOARD = "zcu104"
"""What `--target fpga` means."""
_SIZES = tuple(field.name for field in fields(Geometry))


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"expected a name, got {value!r}")
    return value


def _count(value: Any) -> int:
    if isinstance(value, bool) or not str(value).isascii() or not str(value).isdigit() or len(str(value)) > 9:
        raise ValueError(f"expected a whole number from 1, got {value!r}")
    if int(value) < 1:
        raise ValueError("expected a whole number from 1, got 0")
    return int(value)


OPTIONS: Mapping[str, Callable[[Any], Any]] = {"board": _text, "mhz": _count, **dict.fromkeys(_SIZES, _count)}
"""board is a name of boards.toml; mhz and the sizes of the geometry replace the board's standard ones."""


def tags() -> Mapping[str, Mapping[str, Any]]:
    """None: TVM names no FPGA."""
    return {}


def devices() -> tuple[Device, ...]:
    """Every board with its standard geometry, cheapest first."""
    return tuple(_device(_target(board)) for board in boards().values())


def resolve(specification: Mapping[str, Any]) -> Fpga:
    """The accelerator of a checked specification.

    Raises UsageError for an unknown board or sizes that do not fit together.
    """
    name = str(specification.get("board", STANDARD_BOARD))
    if name not in boards():
        raise UsageError(f"unknown board {name!r}", hint=unknown("a board", name, boards()))
    target = _target(boards()[name])
    sizes = {key: value for key, value in specification.items() if key in _SIZES}
    try:
        geometry = replace(target.geometry, **sizes)
    except ValueError as error:
        raise UsageError(
            f"target geometry {error}", hint=f"`espalier devices {name}` shows one that works"
        ) from None
    board = target.board.model_copy(update={"mhz": specification.get("mhz", target.board.mhz)})
    return replace(target, board=board, geometry=geometry)


def _target(board: Board) -> Fpga:
    try:
        cpu = host()
    except UnavailableError:
        cpu = core_classes()["x86-64-v2"].cpu
    return Fpga(board.name, board, standard(board), cpu)


def _device(target: Fpga) -> Device:
    board, g = target.board, target.geometry
    sheet = f"{board.source} ({board.sure} confidence)"
    assumed = "assumption: nothing was placed and routed"
    fitted = "estimate: fitted to counts of yosys (targets/fpga/synthesis.toml)"
    exact = "estimate: from the shapes in the RTL, checked against yosys"
    chosen = "targets/fpga/geometries.toml: search by the latency and resource models"
    used, parts = estimate(g, act_in_uram=board.uram > 0), utilisation(g, board)
    figures = [
        Figure("part", board.part, "", sheet),
        *(Figure(name, getattr(board, name), "", sheet) for name in ("lut", "ff", "dsp")),
        Figure("bram", board.bram, "36 Kb blocks", sheet),
        Figure("uram", board.uram, "288 Kb blocks", sheet),
        Figure("clock_ghz", target.clock_ghz, "GHz", assumed),
        Figure("memory_gbps", board.gbps, "GB/s", f"{board.source}: peak"),
        Figure("memory_efficiency", MEMORY_EFFICIENCY, "of the peak", "assumption"),
        Figure("memory_latency", LATENCY_NS, "ns", "assumption"),
        Figure("price", board.usd, "USD", "price class only"),
        Figure("geometry", g.label, "", chosen),
        *(Figure(name, getattr(g, name), "", chosen) for name in _SIZES),
        Figure("peak_macs", g.macs, "int8 multiply-adds a cycle", "pes x lanes x tokens"),
        Figure("peak_gops", target.peak_gops, "GOP/s int8", "two operations a multiply-add, at the clock"),
        Figure("activations", g.act_depth * g.word_bytes, "bytes on chip", "act_depth x banks x tokens"),
        *(
            Figure(f"used_{name}", value, f"{100 * parts[name]:.0f} % of the board", source)
            for name, value, source in (
                ("lut", used.lut, fitted),
                ("ff", used.ff, fitted),
                ("dsp", used.dsp, exact),
                ("bram", used.bram, exact),
            )
        ),
        Figure(
            "used_at_most",
            ", ".join(f"{name} {100 * part:.0f} %" for name, part in LIMITS.items()),
            "of the board",
            "assumption: what a design may fill and still be routed",
        ),
        Figure(
            "runs_on", "simulators", "", "functional (g++) or the RTL itself (verilator); no board driver"
        ),
    ]
    summary = f"{board.part}, {g.label} int8, simulated"
    return Device(board.name, KIND, summary, shutil.which("g++") is not None, target, tuple(figures))
