"""Shapes as users write them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espalier.errors import UsageError
from espalier.shapes import format_shape, parse_shapes

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("text", "shapes"),
    [
        ("x:[1,128]", {"x": (1, 128)}),
        ("x:[1,128] mask:[1,128]", {"x": (1, 128), "mask": (1, 128)}),
        ("x:[1,128],mask:[1, 128]", {"x": (1, 128), "mask": (1, 128)}),
        ("  x : [ 1 ,128 ] ", {"x": (1, 128)}),
        ("input:0:[4]", {"input:0": (4,)}),
        ("a/b.c-d:[1] s:[]", {"a/b.c-d": (1,), "s": ()}),
    ],
)
def test_read(text: str, shapes: dict[str, tuple[int, ...]]) -> None:
    assert parse_shapes(text) == shapes


NAMES = st.text("abcXYZ019._/:-", min_size=1, max_size=8)


@given(
    st.dictionaries(NAMES, st.lists(st.integers(1, 2**31 - 1), max_size=8).map(tuple), min_size=1, max_size=4)
)
def test_what_is_written_is_read(shapes: dict[str, tuple[int, ...]]) -> None:
    assert parse_shapes(" ".join(f"{name}:{format_shape(shape)}" for name, shape in shapes.items())) == shapes


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "the text is empty"),
        (" , ", "the text is empty"),
        ("x", "cannot read 'x'"),
        ("x:1,128", "cannot read 'x:1,128'"),
        ("x:[1,128", "cannot read 'x:[1,128'"),
        ("[1,128]", "cannot read '[1,128]'"),
        ("x:[1] junk", "cannot read 'junk'"),
        ("x:[1] x:[2]", "'x' is given twice"),
        ("x:[0]", "dimension '0' of 'x'"),
        ("x:[-1]", "dimension '-1' of 'x'"),
        ("x:[1,,2]", "dimension '' of 'x'"),
        ("x:[1.5]", "dimension '1.5' of 'x'"),
        ("x:[٣]", "dimension '٣' of 'x'"),
        ("x:[99999999999]", "dimension '99999999999' of 'x'"),
        ("x:[2147483648]", "dimension '2147483648' of 'x'"),
        ("x:[1,1,1,1,1,1,1,1,1]", "'x' has 9 dimensions"),
    ],
)
def test_refused(text: str, part: str) -> None:
    with pytest.raises(UsageError, match=re.escape(part)) as caught:
        parse_shapes(text)
    assert caught.value.hint


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        assert parse_shapes(text)
    except UsageError as error:
        assert "\n" not in error.message
