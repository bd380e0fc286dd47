"""Orders the stores of TVM's shape functions, so that the same module gives the same bytes.

`VMShapeLower` computes all symbolic lengths of a block in one function, H[slot] = ..., in the order of a hash
table of pointers, which differs from run to run. The slots themselves do not.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import tvm
from tvm import tirx
from tvm_ffi import structural_walk


def ordered(mod: Any, _context: Any) -> Any:
    """`mod` with the stores of every shape function in the order of their slots."""
    for name, function in mod.functions.items():
        if name.name_hint.startswith("shape_func"):
            mod[name] = function.with_body(_ordered(function.body))
    return mod


def _ordered(body: Any) -> Any:
    if not hasattr(body, "seq"):  # a single store
        return body
    by_slot = {int(store.indices[0]): store for store in body.seq}
    if len(by_slot) != len(body.seq) or by_slot.keys() & _slots_read(by_slot.values()):
        raise AssertionError("the stores of a shape function depend on their order")
    return tirx.SeqStmt([by_slot[slot] for slot in sorted(by_slot)])


def _slots_read(stores: Iterable[Any]) -> set[int]:
    read: set[int] = set()

    def visit(load: Any) -> None:
        read.add(int(load.indices[0]))

    for store in stores:
        structural_walk(store.value, (tvm.ir.TensorLoad, visit))
    return read


ordered_shape_functions = tvm.transform.module_pass(ordered, opt_level=0, name="OrderShapeFunctions")
