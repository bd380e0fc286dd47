"""Symbolic integers against plain ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espalier.passes.frontend import size as sz
from espalier.passes.frontend.size import Dim

pytestmark = pytest.mark.unit

B, S = sz.symbol("b"), sz.symbol("s")
EXTENT = 7
I = sz.iota(-1, EXTENT)  # noqa: E741
J = sz.iota(-2, S)
LEAVES = st.sampled_from([B, S, I, J]) | st.integers(-9, 9)
BINARY: list[Callable[[Dim, Dim], Dim]] = [
    lambda a, b: a + b,
    lambda a, b: a - b,
    lambda a, b: a * b,
    sz.minimum,
    sz.maximum,
    sz.less_equal,
    sz.equal,
    lambda a, b: sz.floordiv(a, b) if b != 0 else a,
    lambda a, b: sz.mod(a, b) if b != 0 else a,
]
PLAIN: list[Callable[[int, int], int]] = [
    lambda a, b: a + b,
    lambda a, b: a - b,
    lambda a, b: a * b,
    min,
    max,
    lambda a, b: int(a <= b),
    lambda a, b: int(a == b),
    lambda a, b: a // b,
    lambda a, b: a % b,
]
TREES = st.recursive(LEAVES, lambda t: st.tuples(st.integers(0, len(BINARY) - 1), t, t), max_leaves=6)


def symbolic(tree: object) -> Dim:
    if isinstance(tree, tuple):
        return BINARY[tree[0]](symbolic(tree[1]), symbolic(tree[2]))
    return tree  # pyright: ignore[reportReturnType]


def plain(tree: object, values: dict[object, int]) -> int:
    if isinstance(tree, tuple):
        a, b = plain(tree[1], values), plain(tree[2], values)
        if tree[0] >= 7 and symbolic(tree[2]) == 0:
            return a
        return PLAIN[tree[0]](a, b)
    return values[tree] if isinstance(tree, sz.Size) else tree  # pyright: ignore[reportReturnType]


def put(value: Dim, values: dict[object, int]) -> Dim:
    return sz.replace(value, lambda atom: values[sz.of(atom)])


@given(TREES, st.integers(1, 9), st.integers(1, 9), st.integers(0, EXTENT - 1), st.data())
def test_formulas_compute_what_integers_do(tree: object, b: int, s: int, i: int, data: st.DataObject) -> None:
    values: dict[object, int] = {B: b, S: s, I: i, J: data.draw(st.integers(0, s - 1))}
    try:
        formula = symbolic(tree)
        expected = plain(tree, values)
        got = put(formula, values)
    except (ZeroDivisionError, sz.FormulaError):
        return
    assert got == expected
    low = sz.lower(formula)
    assert low is None or low <= expected


@given(TREES, TREES)
def test_sums_and_products_are_canonical(left: object, right: object) -> None:
    try:
        a, b = symbolic(left), symbolic(right)
        assert a + b == b + a
        assert a * b == b * a
        assert (a + b) - b == a
        assert (a + b) * (a + b) == a * a + 2 * (a * b) + b * b
    except (ZeroDivisionError, sz.FormulaError):
        return


def test_the_divisions_that_models_write() -> None:
    assert sz.floordiv(B * S * 384, S * 384) == B
    assert sz.floordiv(B * S * 384, B * 12) == S * 32
    assert sz.floordiv((B + S) * (B + 1), B + S) == B + 1
    assert sz.floordiv(B * 12 + 5, 12) == B
    assert sz.mod(B * 12 + 5, 12) == 5
    assert str(sz.floordiv(S + 1, 2)) == "floordiv(s + 1, 2)"
    assert str(sz.mod(S, 2)) == "mod(s, 2)"
    assert sz.divide_exact(B * S, 3) is None
    assert sz.divide_exact(B, 0) is None


def test_bounds_decide_comparisons() -> None:
    assert sz.less_equal(1, S) == 1
    assert sz.equal(S, -1) == 0
    assert sz.equal(S, S) == 1
    assert sz.minimum(J + 1, S) == J + 1
    assert sz.maximum(S - 1, 0) == S - 1
    assert isinstance(sz.maximum(S - 2, 0), sz.Size)
    assert sz.less_equal(J, S) == 1
    assert sz.less_equal(S, J) == 0
    assert sz.lower(I * -1) == 1 - EXTENT


def test_names() -> None:
    assert sz.name_of(S) == "s"
    assert sz.name_of(S * 2) is None
    assert sz.name_of(3) is None
    assert sz.symbols(sz.floordiv(S + 1, 2) + B) == {"s", "b"}
    assert sz.symbols(J) == {"s"}
    assert str(2 * S - B + 3) in ("2*s - b + 3", "-b + 2*s + 3")


def test_runaway_sizes_stop() -> None:
    value: Dim = B + S
    with pytest.raises(sz.FormulaError):
        for _ in range(8):
            value = value * value
    with pytest.raises(sz.FormulaError):
        for _ in range(80):
            value = B * 2 if value == 0 else value * 3
