"""The settings that kernels can be tuned over: distinct, within the registers, and right."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from linear_oracle import Built, pruned

from espalier.schedules import Epilogue, LinearKernel, LinearWork, linear_candidates
from espalier.sparsity import BP, HP, NM, Block, Dense, Structure, Unstructured, Zero
from espalier.targets.x86.classes import core_classes

CPU = core_classes()["znver1"].cpu
N, K = 76, 93
STRUCTURES: dict[str, Structure] = {
    "dense": Dense(),
    "zero": Zero(),
    "BP": BP(16, 21),
    "HP": HP(16, 36, 4, 2),
    "HP shared": HP(32, 40, 4, 2, 4),
    "HP shared by 3": HP(15, 40, 8, 3, 3),
    "2:4": NM(2, 4),
    "block": Block(16, 1, 180),
    "unstructured": Unstructured(N * K // 5),
}
FULL = Epilogue(bias=True, activation="relu", residual=True)


def space(structure: str, core: str = "znver1") -> list[LinearKernel]:
    """Every kernel under every setting, over tiles and over tokens."""
    cpu = core_classes()[core].cpu
    works = (LinearWork(N, K, STRUCTURES[structure], FULL, layout) for layout in ("tiles", "tokens"))
    bases = (kernel for work in works for kernel in linear_candidates(work, cpu))
    return [variant for kernel in bases for variant in kernel.variants()]


@pytest.mark.unit
@pytest.mark.parametrize("core", ["nehalem", "znver1", "znver5"])
@pytest.mark.parametrize("structure", STRUCTURES)
def test_names_tell_settings_apart(structure: str, core: str) -> None:
    kernels = space(structure, core)
    assert len({kernel.name for kernel in kernels}) == len(kernels) == len(set(kernels))
    assert all(kernel.milliseconds(33, 1) > 0 for kernel in kernels)


@pytest.mark.unit
def test_the_present_setting_comes_first_and_there_is_a_choice() -> None:
    for name in STRUCTURES.keys() - {"zero"}:
        for kernel in linear_candidates(LinearWork(N, K, STRUCTURES[name]), CPU):
            first, *others = kernel.variants()
            assert first == kernel
            assert len(others) > 10
            assert {tuple(other.knobs) for other in others} == {tuple(kernel.knobs)}


@cache
def built(kernel: LinearKernel) -> Built:
    return Built(kernel, pruned(kernel.work.structure, N, K))


@pytest.mark.compile
@pytest.mark.parametrize("structure", STRUCTURES)
@settings(max_examples=6)
@given(data=st.data(), tokens=st.integers(1, 70))
def test_every_setting_equals_float64(structure: str, data: st.DataObject, tokens: int) -> None:
    kernel = data.draw(st.sampled_from(space(structure)), label="kernel")
    assert built(kernel).error(tokens, seed=tokens) < 2e-6


@pytest.mark.compile
@pytest.mark.parametrize("structure", STRUCTURES)
@settings(max_examples=6)
@given(data=st.data(), tokens=st.sampled_from([1, 5, 16, 20, 32, 35, 40, 41, 51, 64, 70]))
def test_functions_for_one_number_of_tokens(structure: str, data: st.DataObject, tokens: int) -> None:
    kernel = data.draw(st.sampled_from(space(structure)), label="kernel")
    one = Built(kernel.for_tokens(tokens), pruned(kernel.work.structure, N, K))
    assert one.error(tokens, seed=tokens) < 2e-6
