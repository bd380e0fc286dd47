"""What yosys makes of a geometry: cells after `synth_xilinx`, no placement, no timing.

Results are kept in synthesis.toml, so nobody needs yosys to read them:
`python -m espalier.targets.fpga.synthesis PES LANES BANKS TOKENS WIDTH BUS SLOT_BITS ACT WGT PAR TILE` prints
the entry of one more.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import astuple, dataclass, fields
from functools import cache
from importlib import resources
from pathlib import Path

from espalier.errors import UnavailableError
from espalier.targets.fpga.geometry import Geometry

_LUT_RAM = {"RAM32M": 4, "RAM64M": 4, "RAM32X1D": 2, "RAM64X1D": 2, "RAM128X1D": 4, "RAM256X1S": 4}
"""LUTs that a distributed memory takes."""


@dataclass(frozen=True)
class Resources:
    """What a design takes of a device. A BRAM is 36 Kb; halves are 18 Kb."""

    lut: int
    ff: int
    dsp: int
    bram: float


def count(cells: dict[str, int]) -> Resources:
    """Resources of the cells of a 7-series netlist."""
    lut = sum(n for name, n in cells.items() if name.startswith("LUT"))
    lut += sum(n * _LUT_RAM.get(name, 0) for name, n in cells.items())
    # two F7 or F8 multiplexers cost nothing: they join LUTs of a slice; an SRL16 is a LUT
    lut += sum(n for name, n in cells.items() if name.startswith("SRL"))
    ff = sum(n for name, n in cells.items() if name.startswith("FD"))
    bram = cells.get("RAMB36E1", 0) + cells.get("RAMB18E1", 0) / 2
    return Resources(lut, ff, cells.get("DSP48E1", 0), bram)


def synthesise(geometry: Geometry, top: str = "core") -> Resources:
    """Run `synth_xilinx -family xc7` on module `top`; the core takes minutes.

    Modules are synthesised one by one, each kind of it once. Raises UnavailableError without yosys or if it
    fails.
    """
    yosys = shutil.which("yosys")
    if yosys is None:
        raise UnavailableError(
            "yosys is not installed; it counts the cells", hint="run: apt-get install yosys"
        )
    rtl = Path(str(resources.files("espalier.hardware"))) / "rtl"
    paths = sorted(rtl.glob("*.sv"), key=lambda path: (path.stem != "isa_pkg", path.stem))
    sources = " ".join(map(str, paths))
    text = (rtl / f"{top}.sv").read_text()
    sizes = " ".join(
        f"-set {name.upper()} {value}"
        for name, value in vars(geometry).items()
        if f"parameter int {name.upper()} =" in text
    )
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "stat.json"
        script = (
            f"read_verilog -sv {sources}; chparam {sizes} {top}; synth_xilinx -family xc7 -top {top}; "
            f"flatten; tee -q -o {out} stat -json"
        )
        done = subprocess.run([yosys, "-q", "-p", script], capture_output=True, text=True, check=False)
        if done.returncode or not out.exists():
            last = (done.stderr.strip() or "no output").splitlines()[-1]
            raise UnavailableError(f"yosys failed: {last}", hint=f"see what this prints: yosys -p {script!r}")
        return count(json.loads(out.read_text())["design"]["num_cells_by_type"])


@cache
def known() -> dict[Geometry, Resources]:
    """The results in synthesis.toml."""
    data = tomllib.loads(resources.files("espalier.targets.fpga").joinpath("synthesis.toml").read_text())
    return {Geometry(*row["geometry"]): Resources(**row["resources"]) for row in data["result"]}


def main() -> None:
    """Synthesise one geometry and print its entry for synthesis.toml."""
    geometry = Geometry(*map(int, sys.argv[1 : 1 + len(fields(Geometry))]))
    found = synthesise(geometry)
    pairs = ", ".join(f"{item.name} = {getattr(found, item.name)}" for item in fields(Resources))
    sys.stdout.write(f"[[result]]\ngeometry = {list(astuple(geometry))}\nresources = {{ {pairs} }}\n")


if __name__ == "__main__":
    main()
