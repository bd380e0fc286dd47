"""Sizes in terms of a model's dimensions."""

from __future__ import annotations

import pytest
import tvm

from espalier.passes.graph import factors, product

pytestmark = pytest.mark.unit

BATCH, LENGTH = (tvm.tirx.Var(name, "int64") for name in ("batch", "length"))
NAMES = {"batch", "length"}


def test_the_factors_of_a_product() -> None:
    assert factors(12, NAMES) == (12,)
    assert factors(LENGTH, NAMES) == ("length",)
    assert sorted(map(str, factors(product([BATCH, LENGTH, 4]), NAMES) or ())) == ["4", "batch", "length"]


@pytest.mark.parametrize(
    "size", [BATCH + 1, tvm.tirx.floordiv(LENGTH, 2) * BATCH, tvm.tirx.Var("s", "int64")]
)
def test_what_is_no_product_of_the_dimensions_has_none(size: tvm.ir.Expr) -> None:
    assert factors(size, NAMES) is None
