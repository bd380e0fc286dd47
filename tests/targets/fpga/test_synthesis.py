"""Counts of yosys, and the resource model held against them."""

from __future__ import annotations

import shutil

import pytest

from espalier.errors import UnavailableError
from espalier.targets.fpga import synthesis
from espalier.targets.fpga.boards import boards
from espalier.targets.fpga.geometry import Geometry
from espalier.targets.fpga.resources import estimate, pe_luts
from espalier.targets.fpga.search import standard

pytestmark = pytest.mark.unit
needs_yosys = pytest.mark.skipif(
    shutil.which("yosys") is None, reason="yosys is not installed: apt-get install yosys"
)


@pytest.mark.parametrize("geometry", synthesis.known(), ids=lambda g: g.label)
def test_the_model_agrees_with_yosys(geometry):
    found, expected = estimate(geometry), synthesis.known()[geometry]
    assert found.dsp == expected.dsp
    assert abs(found.bram - expected.bram) <= 2
    assert abs(found.lut / expected.lut - 1) <= 0.20
    assert abs(found.ff / expected.ff - 1) <= 0.20


def test_geometries_of_different_sizes_were_synthesised():
    sizes = [g.macs for g in synthesis.known()]
    assert len(sizes) >= 4 and max(sizes) >= 8 * min(sizes)


@needs_yosys
def test_yosys_counts_a_processing_element_as_the_model_does():
    g = Geometry(8, 2, 4, 4, 2, 16, 8, 2048, 256, 128, 32)
    found = synthesis.synthesise(g, "pe")
    assert found.dsp == g.lanes * g.tokens // 2 and found.bram == 0
    assert abs(found.lut / pe_luts(g) - 1) <= 0.20


@pytest.mark.slow
@needs_yosys
def test_stored_counts_are_those_of_this_rtl():
    smallest = min(synthesis.known(), key=lambda g: g.macs)
    assert synthesis.synthesise(smallest) == synthesis.known()[smallest]


def test_cells_are_counted_by_kind():
    cells = {
        "LUT6": 10,
        "LUT2": 3,
        "RAM32M": 2,
        "SRL16E": 1,
        "FDRE": 7,
        "FDSE": 1,
        "DSP48E1": 4,
        "RAMB18E1": 3,
    }
    assert synthesis.count({**cells, "MUXF7": 9}) == synthesis.Resources(lut=22, ff=8, dsp=4, bram=1.5)


def test_absent_yosys_names_its_installation(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnavailableError, match="yosys is not installed") as error:
        synthesis.synthesise(standard(boards()["pynq-z2"]))
    assert "apt-get install yosys" in error.value.hint


def test_failing_yosys_says_how_to_see_why(monkeypatch, tmp_path):
    fake = tmp_path / "yosys"
    fake.write_text("#!/bin/sh\necho broken >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    with pytest.raises(UnavailableError, match="yosys failed: broken"):
        synthesis.synthesise(standard(boards()["pynq-z2"]))
