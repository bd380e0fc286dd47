"""Boards and what fits them."""

from __future__ import annotations

import pytest

from espalier.errors import ConstraintError
from espalier.targets.fpga import encoder, latency, search
from espalier.targets.fpga.boards import boards
from espalier.targets.fpga.encoder import DENSE, TRANSFORMER, Pruning
from espalier.targets.fpga.resources import LIMITS, bram, uram, utilisation

pytestmark = pytest.mark.unit


def test_boards_are_sorted_by_price_and_say_their_source():
    known = list(boards().values())
    assert len(known) == 12 and [b.usd for b in known] == sorted(b.usd for b in known)
    assert all(board.source for board in known)
    assert boards()["zcu104"].dsp == 1728


@pytest.mark.parametrize("name", ["pynq-z2", "zcu104", "alveo-u200"])
def test_standard_geometry_fits_and_holds_tinybert(name):
    board = boards()[name]
    g = search.standard(board)
    assert all(part <= LIMITS[kind] for kind, part in utilisation(g, board).items())
    assert encoder.activation_words(search.REFERENCE[0], search.TOKENS, g) <= g.act_depth


def test_a_larger_board_is_not_slower():
    times = []
    for name in ("pynq-z2", "zcu104", "alveo-u200"):
        board = boards()[name]
        g = search.standard(board)
        times.append(board.milliseconds(search.cycles(g, board, search.REFERENCE, 128, search.PRUNING)))
    assert times == sorted(times, reverse=True)


def test_a_board_too_small_says_so():
    tiny = boards()["pynq-z2"].model_copy(update={"dsp": 20, "name": "tiny"})
    with pytest.raises(ConstraintError, match=r"no geometry fits tiny: .* 20 DSP"):
        search.search(tiny)


def test_stored_geometries_are_what_the_search_finds():
    board = boards()["pynq-z2"]
    assert search.standard(board) == search.search(board), "run python -m espalier.targets.fpga.search"
    assert all(search.standard(board) for board in boards().values())


def test_pruning_brings_most_of_its_ideal_speed_up_where_computing_bounds():
    board = boards()["zcu104"]
    g = search.standard(board)
    timing = board.timing(g)

    def array(pruning):
        parts = encoder.costs(TRANSFORMER, 128, pruning, g, timing)
        return sum(c.compute for c in parts if c.kind == "linear" and "attention" not in c.name)

    assert array(DENSE) / array(Pruning(0.5, 4)) >= 0.85 * 4
    assert latency.total(encoder.costs(TRANSFORMER, 128, DENSE, g, timing), timing) > array(DENSE)


def test_memories_are_counted_in_blocks():
    # 512 x 36 is half a block; 64 bits of 4096 words are 8 blocks of 36 Kb less nothing
    assert [bram(36, 512), bram(72, 512), bram(37, 512), bram(64, 4096)] == [0.5, 1, 1, 8]
    assert [uram(64, 4096), uram(73, 4097)] == [1, 4]
