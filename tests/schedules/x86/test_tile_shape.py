"""What the kernels over tiles take for granted about shapes."""

from __future__ import annotations

import pytest

from espalier.schedules.x86.tile_shape import TileShape

pytestmark = pytest.mark.unit


def test_sorted_rows_fill_their_groups() -> None:
    with pytest.raises(ValueError, match="height 10 is not a multiple of rows 4"):
        TileShape(20, 16, "row", 10, 4, width=16)


def test_lists_of_rows_come_in_fours() -> None:
    with pytest.raises(ValueError, match="multiple of 4 entries, got count 6"):
        TileShape(20, 16, "row", 10, 2, count=6)
