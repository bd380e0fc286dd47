"""The boards as targets and devices."""

from __future__ import annotations

import json
from dataclasses import astuple

import pytest

from espalier.errors import UsageError
from espalier.targets.fpga.boards import boards
from espalier.targets.fpga.resources import fits
from espalier.targets.fpga.search import standard
from espalier.targets.fpga.target import Fpga
from espalier.targets.host import host
from espalier.targets.parse import parse_target
from espalier.targets.registry import devices, find_device

pytestmark = pytest.mark.unit


def test_the_kind_is_a_board_and_every_board_a_target() -> None:
    assert parse_target("fpga") == parse_target("zcu104")
    for name, board in boards().items():
        target = parse_target(name)
        assert (
            isinstance(target, Fpga) and target.geometry == standard(board) and fits(target.geometry, board)
        )
        assert (target.name, target.kind, target.host) == (name, "fpga", host())
        assert target.clock_ghz == board.mhz / 1e3
        assert target.peak_gops == pytest.approx(2 * target.geometry.macs * board.mhz / 1e3)


def test_options_replace_clock_and_sizes() -> None:
    target = parse_target("fpga -board=pynq-z2 -mhz=100 -act_depth=1024")
    assert isinstance(target, Fpga)
    assert (target.name, target.board.mhz, target.geometry.act_depth) == ("pynq-z2", 100, 1024)
    assert astuple(target.geometry)[:7] == astuple(standard(boards()["pynq-z2"]))[:7]
    assert (
        parse_target(json.dumps({"kind": "fpga", "board": "pynq-z2", "mhz": 100, "act_depth": 1024}))
        == target
    )


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("fpga -board=zcu105", "unknown board 'zcu105'", "did you mean zcu10"),
        ("fpga -pes=24", "pes is 24, not a power of two", "espalier devices zcu104"),
        ("fpga -mhz=0", "mhz: expected a whole number from 1", "mhz"),
        ("fpga -mhz=fast", "mhz: expected a whole number from 1", "mhz"),
        ("fpga -board=", "board: expected a name", "board"),
        ("fpga -boards=x", "no option 'boards'", "did you mean board"),
    ],
)
def test_refused(text: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        parse_target(text)
    assert hint in caught.value.hint


def test_a_board_says_what_is_estimated() -> None:
    device = find_device("u200")
    assert device.name == "alveo-u200" and device.kind == "fpga"
    figures = {figure.name: figure for figure in device.figures}
    assert all(figure.source for figure in device.figures)
    assert figures["dsp"].value == 5856 and "data sheet" in figures["dsp"].source
    assert "assumption" in figures["clock_ghz"].source and "estimate" in figures["used_lut"].source
    assert figures["peak_macs"].value == standard(boards()["alveo-u200"]).macs
    assert json.loads(json.dumps(device.to_dict()))["figures"]
    assert set(boards()) <= set(devices())
