"""The last tiles of a number of tokens that is known."""

from __future__ import annotations

import pytest

from espalier.schedules import LinearWork, linear_candidates
from espalier.schedules.x86.tile_body import LANES, MAX_SUMS, NARROW, last_part
from espalier.schedules.x86.tile_linear import TileLinear
from espalier.sparsity import BP, HP, Dense, Structure
from espalier.targets.x86.classes import core_classes

pytestmark = pytest.mark.unit
STRUCTURES: list[Structure] = [HP(32, 40, 4, 2), HP(32, 40, 4, 2, 4), BP(32, 20), Dense()]


@pytest.mark.parametrize("core", ["nehalem", "znver1", "znver5"])
@pytest.mark.parametrize("structure", STRUCTURES, ids=str)
@pytest.mark.parametrize("tokens", [1, 8, 9, 16, 20, 32, 35, 40, 41, 64, 67, 128, 200])
def test_every_token_is_done_once_and_the_sums_fit(core: str, structure: Structure, tokens: int) -> None:
    cpu = core_classes()[core].cpu
    for kernel in linear_candidates(LinearWork(96, 96, structure), cpu):
        if isinstance(kernel, TileLinear):
            last = last_part(kernel.shape, kernel.tiles, cpu.lanes, tokens)
            tiles = (last.jobs - 1) * kernel.tiles + sum(size for size, _ in last.sizes)
            least = max(0, tokens - last.vectors * NARROW)
            assert tiles * LANES + last.vectors * NARROW >= tokens
            assert tiles == -(-least // LANES) if last.vectors else tiles * LANES - tokens < LANES
            if last.together:
                size, groups = last.sizes[-1]
                per_row = size * LANES // cpu.lanes + last.vectors
                assert kernel.shape.rows * groups * per_row <= MAX_SUMS


def test_the_last_words_of_a_sentence_join_the_tiles_before_them() -> None:
    cpu = core_classes()["znver1"].cpu
    kernels = linear_candidates(LinearWork(96, 96, HP(32, 40, 4, 2)), cpu)
    row = next(kernel for kernel in kernels if isinstance(kernel, TileLinear) and "-row-" in kernel.name)
    last = last_part(row.shape, row.tiles, cpu.lanes, 35)
    assert (last.jobs, last.sizes, last.vectors, last.together) == (1, ((2, 1),), 1, True)
