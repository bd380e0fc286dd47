from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from espalier.errors import UsageError
from espalier.pruning.families import (
    BlockFamily,
    BPFamily,
    BPPPFamily,
    Family,
    HPFamily,
    NMFamily,
    PPFamily,
    UnstructuredFamily,
    parse_family,
    structure_at,
)
from espalier.sparsity import Dense

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("text", "family"),
    [
        ("hp", HPFamily()),
        ("HP(B=16,v=4,n=1,g=4)", HPFamily(16, 4, 1, 4)),
        ("hp( banked=true )", HPFamily(banked=True)),
        ("bp(axis=rows)", BPFamily(axis="rows")),
        ("pp(p=4,m=6)", PPFamily(4, 6)),
        ("bp+pp(shared=false)", BPPPFamily(shared=False)),
        ("bp+pp(B=8,p=10)", BPPPFamily(8, 10)),
        ("nm(v=8)", NMFamily(8)),
        ("block(bh=32,bw=32)", BlockFamily(32, 32)),
        ("unstructured", UnstructuredFamily()),
    ],
)
def test_parses(text: str, family: Family) -> None:
    assert parse_family(text) == family


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("blok", "structure 'blok' is unknown", "did you mean block"),
        ("hp(B=32", "structure 'hp(B=32' is unknown", "a structure is one of"),
        ("hp(kc=3)", "hp has no parameter 'kc'", "a parameter is one of"),
        ("hp(v=0)", "v is '0', expected a whole number from 1", "v=4"),
        ("hp(v=x)", "v is 'x', expected a whole number from 1", "v=4"),
        ("bp(axis=diagonal)", "axis is 'diagonal', expected columns or rows", "axis is one of"),
        ("hp(B=16,v=8,n=1,g=4)", "4 groups of 4 rows in a block of 16 use at most 4 of the 8", "smaller g"),
        ("hp(B=30,g=4)", "B is 30, expected a multiple of g=4", "B=32"),
        ("hp(n=5)", "n is 5, expected at most v=4", "from 1 to 4"),
        ("hp(banked=yes)", "banked is 'yes', expected true or false", "banked is one of"),
    ],
)
def test_refuses(text: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_family(text)
    assert message in caught.value.message and hint in caught.value.hint


SHAPES = st.tuples(st.integers(1, 70), st.integers(8, 90))


@given(SHAPES, st.floats(0.0, 0.95), st.sampled_from([(4, 2), (4, 1), (8, 2)]), st.sampled_from([1, 4]))
def test_hp_reaches_every_sparsity(
    shape: tuple[int, int], sparsity: float, nv: tuple[int, int], g: int
) -> None:
    v, n = nv
    structure = HPFamily(B=16, v=v, n=n, g=g).at(shape, sparsity)
    weight = np.random.default_rng(0).standard_normal(shape)
    got = 1.0 - structure.mask(weight).mean()
    assert got == pytest.approx(structure.sparsity(shape))
    assert abs(got - sparsity) <= (v + n) / shape[1] + 1e-9


@given(SHAPES, st.floats(0.0, 0.95))
def test_others_come_near(shape: tuple[int, int], sparsity: float) -> None:
    weight = np.random.default_rng(0).standard_normal(shape)
    for family, step in (
        (BPFamily(8), 1 / shape[1]),
        (BPFamily(8, "rows"), 1 / shape[0]),
        (NMFamily(4), 0.25),
        (UnstructuredFamily(), 1 / (shape[0] * shape[1])),
    ):
        structure = structure_at(family, shape, sparsity)
        assert abs(1.0 - structure.mask(weight).mean() - sparsity) <= step + 0.01


def test_no_sparsity_is_dense() -> None:
    assert structure_at(HPFamily(), (8, 8), 0.0) == Dense()


def test_patterns_and_blocks_at_shapes_they_divide() -> None:
    weight = np.random.default_rng(0).standard_normal((64, 64))
    for family in (PPFamily(8, 4), BPPPFamily(B=16, p=8, m=4), BlockFamily(8, 8)):
        structure = family.at((64, 64), 0.75)
        assert 1.0 - structure.mask(weight).mean() == pytest.approx(0.75, abs=0.02)
