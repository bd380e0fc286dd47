"""The stores of a shape function come in the order of their slots, whatever order TVM found."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.compile

FORWARD = """
@T.prim_func(private=True, s_tir=True)
def shape_func(H: T.Buffer((T.int64(4),), "int64")):
    H[T.int64(2)] = H[T.int64(0)] * T.int64(2)
    H[T.int64(3)] = H[T.int64(0)] * H[T.int64(1)]
"""
BACKWARD = """
@T.prim_func(private=True, s_tir=True)
def shape_func(H: T.Buffer((T.int64(4),), "int64")):
    H[T.int64(3)] = H[T.int64(0)] * H[T.int64(1)]
    H[T.int64(2)] = H[T.int64(0)] * T.int64(2)
"""
DEPENDENT = """
@T.prim_func(private=True, s_tir=True)
def shape_func(H: T.Buffer((T.int64(4),), "int64")):
    H[T.int64(3)] = H[T.int64(0)] * H[T.int64(1)]
    H[T.int64(2)] = H[T.int64(3)] * T.int64(2)
"""


def ordered(text: str):
    import tvm
    from tvm.script import from_source

    from espalier.codegen.shape_functions import ordered_shape_functions

    return ordered_shape_functions(tvm.IRModule({"shape_func": from_source(text)}))


def test_the_order_is_that_of_the_slots() -> None:
    import tvm

    tvm.ir.assert_structural_equal(ordered(BACKWARD), ordered(FORWARD))
    stores = [int(store.indices[0]) for store in ordered(BACKWARD)["shape_func"].body.seq]
    assert stores == [2, 3]


def test_stores_that_depend_on_one_another_are_not_reordered() -> None:
    with pytest.raises(Exception, match="depend on their order"):
        ordered(DEPENDENT)
