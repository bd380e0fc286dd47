"""Counting cells; yosys itself is not run here."""

from __future__ import annotations

import pytest

from espalier.errors import UnavailableError
from espalier.targets.fpga import synthesis
from espalier.targets.fpga.boards import boards
from espalier.targets.fpga.search import standard

pytestmark = pytest.mark.unit


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
