"""Every kernel of every structure against float64."""

from __future__ import annotations

from functools import cache
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from linear_oracle import Built, pruned

from espalier.schedules import Epilogue, LinearWork, linear_candidates
from espalier.schedules.linear import Activation, Layout
from espalier.sparsity import BP, BPPP, HP, NM, PP, Block, Dense, Structure, Unstructured, Zero
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
    "PP": PP.for_sparsity((N, K), 0.6, p=20),
    "BP+PP": BPPP.for_sparsity((N, K), 0.8, p=20),
    "block 16x1": Block(16, 1, 180),
    "block 8x8": Block(8, 8, 40),
    "unstructured": Unstructured(N * K // 5),
}
FULL = Epilogue(bias=True, activation="relu", residual=True)


@cache
def built(work: LinearWork, name: str) -> Built:
    kernel = next(kernel for kernel in linear_candidates(work, CPU) if kernel.name == name)
    return Built(kernel, pruned(work.structure, work.n, work.k))


def kernels(structure: str, layout: Layout) -> list[tuple[LinearWork, str]]:
    """The kernels for a structure, without the dense one unless it is dense."""
    work = LinearWork(N, K, STRUCTURES[structure], FULL, layout)
    found = linear_candidates(work, CPU)
    return [(work, kernel.name) for kernel in (found if structure == "dense" else found[1:])]


@pytest.mark.parametrize("layout", ["tiles", "tokens"])
@pytest.mark.parametrize("structure", STRUCTURES)
@settings(max_examples=15)
@given(data=st.data(), tokens=st.integers(1, 200))
def test_equals_float64(structure: str, layout: Layout, data: st.DataObject, tokens: int) -> None:
    kernel = data.draw(st.sampled_from(kernels(structure, layout)))
    assert built(*kernel).error(tokens, seed=tokens) < 2e-6


@pytest.mark.parametrize("layout", ["tiles", "tokens"])
@pytest.mark.parametrize(
    "end",
    [
        Epilogue(),
        Epilogue(residual=True),
        Epilogue(activation="gelu", residual=True),
        *(Epilogue(bias=True, activation=activation) for activation in get_args(Activation)),
    ],
)
@settings(max_examples=5)
@given(tokens=st.integers(1, 200))
def test_every_epilogue(layout: Layout, end: Epilogue, tokens: int) -> None:
    work = LinearWork(48, 40, BP(16, 21), end, layout)
    assert built(work, linear_candidates(work, CPU)[1].name).error(tokens, seed=tokens) < 2e-6


@pytest.mark.parametrize("layout", ["tiles", "tokens"])
@pytest.mark.parametrize("structure", STRUCTURES)
def test_dense_is_always_a_candidate(structure: str, layout: Layout) -> None:
    work = LinearWork(N, K, STRUCTURES[structure], layout=layout)
    names = [kernel.name for kernel in linear_candidates(work, CPU)]
    assert len(set(names)) == len(names)
    assert "dense" in names[0]


def test_a_dense_kernel_runs_a_pruned_matrix() -> None:
    work = LinearWork(N, K, STRUCTURES["HP"], FULL)
    assert built(work, linear_candidates(work, CPU)[0].name).error(33) < 2e-6


def test_more_columns_than_an_index_can_name_leave_the_dense_kernel() -> None:
    for layout in get_args(Layout):
        assert len(linear_candidates(LinearWork(8, 70000, BP(8, 16), layout=layout), CPU)) == 1
