"""Constants, shapes and ramps: values that exist before any data."""

from __future__ import annotations

import numpy as np

from espalier.passes.frontend import size as sz
from espalier.passes.frontend.build import Builder
from espalier.passes.frontend.convert.elementwise import dtype_name
from espalier.passes.frontend.convert.registry import Node, converts
from espalier.passes.frontend.size import Dim, iota
from espalier.passes.frontend.values import Constant, Index, Tensor, Value, dims, settle, small


@converts("Constant", inputs=(0, 0))
def constant(build: Builder, node: Node) -> Value:
    (name,) = node.outputs
    for key, dtype in (
        ("value", None),
        ("value_float", "float32"),
        ("value_floats", "float32"),
        ("value_int", "int64"),
        ("value_ints", "int64"),
        ("sparse_value", None),
    ):
        if key in node.attrs:
            return Constant(np.asarray(node.attrs[key], dtype=dtype), name)
    raise build.fail("Constant without a numeric value", "strings are not supported")


@converts("Shape")
def shape(build: Builder, node: Node, x: Value) -> Value:
    rank = len(x.shape)
    start, end, _ = slice(node.get("start", 0), node.get("end")).indices(rank)
    return sizes(x.shape[start:end])


@converts("Size")
def size(build: Builder, node: Node, x: Value) -> Value:
    return build.reshape(sizes((sz.product(x.shape),)), ())


def sizes(values: tuple[Dim, ...]) -> Value:
    """Dimensions as a 1-D int64 value."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return small(array, "int64")


@converts("ConstantOfShape")
def constant_of_shape(build: Builder, node: Node, shape: Value) -> Value:
    value = np.asarray(node.get("value", np.zeros(1, np.float32))).reshape(())
    target = build.dims(shape, "the shape of ConstantOfShape")
    if not all(isinstance(n, sz.Size) or n > 0 for n in target):
        raise build.fail(f"a tensor of shape {target} has no elements", "empty tensors are not supported")
    return build.broadcast_to(Constant(value), target)


@converts("Range", inputs=(3, 3))
def arange(build: Builder, node: Node, start: Value, limit: Value, delta: Value) -> Value:
    if all(isinstance(v, Constant) for v in (start, limit, delta)):
        first, last, step = (build.array(v, "a bound").reshape(()) for v in (start, limit, delta))
        count = max(0, int(np.ceil((last - first) / step))) if step != 0 else 0
        if not 0 < count <= 1 << 24:
            raise build.fail(
                f"Range from {first} to {last} by {step} has {count} elements", "expected 1 to 2^24"
            )
        return Constant((first + step * np.arange(count)).astype(start.dtype))
    first, last, step = (_integer(build, v) for v in (start, limit, delta))
    if first is None or last is None or step is None:
        raise build.fail(
            "the bounds of Range depend on the input's data",
            "only shapes that follow from the input's shape are supported",
        )
    if not isinstance(step, int) or step == 0:
        raise build.fail(f"Range by {step}", "only constant steps are supported")
    extent = sz.floordiv(last - first + step - (1 if step > 0 else -1), step)
    dtype = start.dtype
    ramp = Index((extent,), first + iota(-1, extent) * step, "int32" if dtype == "int32" else "int64")
    return build("cast", settle(ramp), dtype=dtype)


def _integer(build: Builder, value: Value) -> Dim | None:
    """The integer behind a scalar, also behind a cast to a floating type."""
    while isinstance(value, Tensor) and value.op is not None and value.op.name == "reshape":
        value = value.op.inputs[0]
    if isinstance(value, Tensor):
        value = build.origins.get(value, value)
    if isinstance(value, Constant) and value.array.dtype.kind == "f":
        number = float(value.array.reshape(-1)[0])
        return int(number) if number.is_integer() else None
    found = dims(value)
    return found[0] if found is not None and len(found) == 1 else None


@converts("EyeLike")
def eye_like(build: Builder, node: Node, x: Value) -> Value:
    if len(x.shape) != 2:
        raise build.fail(f"EyeLike of {len(x.shape)} dimensions, expected 2", "the model is damaged")
    dtype = dtype_name(build, node.attrs["dtype"]) if "dtype" in node.attrs else x.dtype
    row, column = iota(-2, x.shape[0]), iota(-1, x.shape[1])
    return build("cast", Index(x.shape, sz.equal(row + node.get("k", 0), column), "bool"), dtype=dtype)
