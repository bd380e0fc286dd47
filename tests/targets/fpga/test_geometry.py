"""Sizes that do not fit together are refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from espalier.targets.fpga.geometry import Geometry

pytestmark = pytest.mark.unit
GOOD = Geometry(16, 4, 8, 8, 4, 16, 8, 4096, 512, 256, 32)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"pes": 12}, "not a power of two"),
        ({"lanes": 16}, "more lanes than banks"),
        ({"tokens": 4}, "tokens is not a multiple of banks"),
        ({"pes": 4}, "pes is not a multiple of tokens"),
        ({"width": 16}, "width is more than banks"),
        ({"bus": 128}, "not a multiple of the bus"),
        ({"bus": 4}, "bus is not within"),
        ({"pes": 256}, "more than 128 pes"),
        ({"slot_bits": 12}, "slot_bits"),
        ({"act_depth": 1 << 17}, "deeper than its addresses"),
        ({"par_depth": 1 << 13}, "deeper than its addresses"),
        ({"pes": 8, "tokens": 8, "bus": 64, "banks": 8, "width": 8}, ""),
    ],
)
def test_rules(change, rule):
    if not rule:
        assert replace(GOOD, **change).macs == 256
        return
    with pytest.raises(ValueError, match=rule):
        replace(GOOD, **change)


def test_sizes_of_words():
    assert (GOOD.macs, GOOD.word_bytes, GOOD.dense_bytes, GOOD.sparse_bytes) == (512, 64, 64, 64 + 16 + 8)
    assert [GOOD.beats(m) for m in ("ACT", "WGT", "WGT_DENSE", "PAR", "TAB")] == [4, 6, 4, 2, 16]
