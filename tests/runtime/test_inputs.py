"""Inputs against a signature: what is cast, what is refused and how it is said."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from espalier.errors import DataError, EspalierError, UsageError
from espalier.runtime.inputs import ALIGNMENT, aligned, check_inputs, fill_inputs
from espalier.runtime.signature import Signature, Tensor

pytestmark = pytest.mark.unit

SIGNATURE = Signature(
    (Tensor("x", ("batch", 8), "float32"), Tensor("mask", ("batch", "length"), "int64")),
    (Tensor("y", ("batch", 4), "float32"),),
    {"batch": (1, 8), "length": (2, 64)},
)
X = np.zeros((2, 8), "float32")
MASK = np.ones((2, 5), "int64")

REFUSED = [
    ({}, DataError, "input 'x' [batch, 8] float32 is missing"),
    ({"x": X}, DataError, "input 'mask' [batch, length] int64 is missing; given: x"),
    ({"x": X, "mask": MASK, "extra": X}, DataError, "input 'extra' is none of the package's"),
    ({"x": X, "masc": MASK}, DataError, "input 'masc' is none of the package's"),
    ({"x": X[0], "mask": MASK}, DataError, "input 'x' [8] has rank 1"),
    ({"x": X[None], "mask": MASK}, DataError, "has rank 3"),
    ({"x": X[:, :7], "mask": MASK}, DataError, "dimension 1: expected 8, got 7"),
    ({"x": np.zeros((9, 8)), "mask": MASK}, DataError, "batch is 9, expected 1 to 8"),
    ({"x": X[:0], "mask": MASK[:0]}, DataError, "batch is 0, expected 1 to 8"),
    ({"x": X, "mask": MASK[:, :1]}, DataError, "length is 1, expected 2 to 64"),
    ({"x": X, "mask": MASK[:1]}, DataError, "batch is 1, but 2 in input 'x'"),
    ({"x": X.astype("complex64"), "mask": MASK}, DataError, "holds complex64, expected float32"),
    ({"x": X.astype("str"), "mask": MASK}, DataError, "expected float32"),
    ({"x": X.astype("int64"), "mask": MASK}, DataError, "is int64, and casting it to float32 could lose"),
    ({"x": X, "mask": MASK.astype("float32")}, DataError, "casting it to int64 could lose"),
    ({"x": X, "mask": MASK.astype("uint64")}, DataError, "casting it to int64 could lose"),
]


@pytest.mark.parametrize(("arrays", "error", "part"), REFUSED, ids=[row[2] for row in REFUSED])
def test_refused(arrays: dict[str, np.ndarray], error: type[EspalierError], part: str) -> None:
    with pytest.raises(error, match=re.escape(part)) as caught:
        check_inputs(SIGNATURE, arrays)
    assert caught.value.hint


@pytest.mark.parametrize("dtype", ["float64", "float16", ">f4", ">f8", "int8", "int16", "bool", "float32"])
def test_floats_that_are_cast(dtype: str) -> None:
    values = np.arange(16).reshape(2, 8) % 2
    x, _ = check_inputs(SIGNATURE, {"x": values.astype(dtype), "mask": MASK})
    assert x.dtype == np.float32 and x.dtype.isnative
    np.testing.assert_array_equal(x, values)


@pytest.mark.parametrize("dtype", ["int32", "int8", "uint8", "uint32", "bool", ">i8", "int64"])
def test_integers_that_are_cast(dtype: str) -> None:
    _, mask = check_inputs(SIGNATURE, {"mask": MASK.astype(dtype), "x": X})
    assert mask.dtype == np.int64 and mask.dtype.isnative
    np.testing.assert_array_equal(mask, MASK)


def test_nothing_is_copied_that_fits() -> None:
    x = aligned(np.ones((3, 8), "float32"))
    assert aligned(x) is x


@given(st.integers(0, 3), st.integers(0, 5), st.integers(0, 7), st.booleans())
def test_aligned_keeps_the_values(rows: int, columns: int, offset: int, transposed: bool) -> None:
    memory = np.arange(64, dtype="float32")
    array = memory[offset : offset + rows * columns].reshape(rows, columns)
    array = array.T if transposed else array
    copy = aligned(array)
    assert copy.ctypes.data % ALIGNMENT == 0 or copy.size == 0
    assert copy.flags.c_contiguous and copy.flags.writeable
    np.testing.assert_array_equal(copy, array)


def test_filled_inputs_fit_and_come_back_with_the_seed() -> None:
    first, second, other = (fill_inputs(SIGNATURE, "random", seed) for seed in (1, 1, 2))
    check_inputs(SIGNATURE, first)
    assert first["x"].shape == (1, 8) and first["mask"].shape == (1, 64)
    np.testing.assert_array_equal(first["x"], second["x"])
    assert not np.array_equal(first["x"], other["x"])
    assert set(np.unique(first["mask"])) == {0, 1}


@pytest.mark.parametrize(("mode", "value"), [("zeros", 0), ("ones", 1)])
def test_constant_fills(mode: str, value: int) -> None:
    filled = fill_inputs(SIGNATURE, mode, 0, {"mask": (3, 7)})  # type: ignore[arg-type]
    assert filled["x"].shape == (3, 8) and filled["mask"].shape == (3, 7)
    assert (filled["x"] == value).all() and (filled["mask"] == value).all()


@pytest.mark.parametrize(
    ("shapes", "part"),
    [
        ({"masc": (1, 2)}, "no input 'masc'"),
        ({"mask": (1,)}, "does not fit [batch, length] int64"),
        ({"mask": (9, 8)}, "batch is 9, expected 1 to 8"),
        ({"mask": (1, 65)}, "length is 65, expected 2 to 64"),
        ({"x": (1, 9)}, "8 is 9, expected 8"),
        ({"x": (1, 8), "mask": (2, 8)}, "batch is 2"),
    ],
)
def test_shapes_that_do_not_fit(shapes: dict[str, tuple[int, ...]], part: str) -> None:
    with pytest.raises(UsageError, match=re.escape(part)):
        fill_inputs(SIGNATURE, "zeros", 0, shapes)
