"""Every kernel of every structure against float64."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from linear_oracle import Built, pruned

from espalier.schedules import Epilogue, LinearWork, linear_candidates
from espalier.sparsity import BP, HP, NM, Block, Dense, Structure, Unstructured, Zero
from espalier.targets.cpu import Cpu
from espalier.targets.x86.classes import core_classes

pytestmark = pytest.mark.compile

CPU: Cpu = core_classes()["znver1"].cpu
N, K = 76, 93
"""Neither a multiple of a block, of a vector or of the rows in registers."""

STRUCTURES: dict[str, Structure] = {
    "dense": Dense(),
    "zero": Zero(),
    "BP": BP(16, 21),
    "BP of 7 rows": BP(7, 30),
    "BP rows": BP(16, 21, "rows"),
    "HP": HP(16, 36, 4, 2),
    "HP 1:4, short vector": HP(32, 30, 4, 1),
    "HP shared": HP(32, 40, 4, 2, 4),
    "HP shared by 3": HP(15, 40, 8, 3, 3),
    "2:4": NM(2, 4),
    "2:4 shared": NM(2, 4, 4),
    "block 16x1": Block(16, 1, 180),
    "block 8x8": Block(8, 8, 40),
    "unstructured": Unstructured(N * K // 5),
}
WORKS = [
    Epilogue(),
    Epilogue(bias=True),
    Epilogue(bias=True, activation="relu", residual=True),
]


@cache
def built(structure: str, index: int, end: Epilogue) -> Built | None:
    work = LinearWork(N, K, STRUCTURES[structure], end)
    kernels = linear_candidates(work, CPU)
    if index >= len(kernels):
        return None
    return Built(kernels[index], pruned(work.structure, N, K))


@pytest.mark.parametrize("structure", STRUCTURES)
@settings(max_examples=12)
@given(index=st.integers(0, 3), tokens=st.integers(1, 200), end=st.sampled_from(WORKS))
def test_equals_float64(structure: str, index: int, tokens: int, end: Epilogue) -> None:
    kernel = built(structure, index, end)
    if kernel is not None:
        assert kernel.error(tokens, seed=tokens) < 2e-6
