"""Arithmetic, comparison and logic."""

from __future__ import annotations

import numpy as np
import onnx

from espalier.passes.frontend.build import Builder
from espalier.passes.frontend.convert.registry import Node, converts
from espalier.passes.frontend.values import Value

UNARY = {
    "Abs": "abs",
    "Neg": "negative",
    "Exp": "exp",
    "Log": "log",
    "Sqrt": "sqrt",
    "Erf": "erf",
    "Sin": "sin",
    "Cos": "cos",
    "Floor": "floor",
    "Ceil": "ceil",
    "Round": "round",
    "Sign": "sign",
    "Not": "logical_not",
    "IsNaN": "isnan",
    "BitwiseNot": "bitwise_not",
}
BINARY = {
    "Add": "add",
    "Sub": "subtract",
    "Mul": "multiply",
    "Div": "divide",
    "Equal": "equal",
    "Less": "less",
    "LessOrEqual": "less_equal",
    "Greater": "greater",
    "GreaterOrEqual": "greater_equal",
    "And": "logical_and",
    "Or": "logical_or",
    "Xor": "logical_xor",
    "BitwiseAnd": "bitwise_and",
    "BitwiseOr": "bitwise_or",
    "BitwiseXor": "bitwise_xor",
}
VARIADIC = {"Sum": "add", "Max": "maximum", "Min": "minimum"}


@converts(*UNARY)
def unary(build: Builder, node: Node, x: Value) -> Value:
    return build(UNARY[node.op], x)


@converts(*BINARY, inputs=(2, 2))
def binary(build: Builder, node: Node, a: Value, b: Value) -> Value:
    if a.dtype != b.dtype:
        raise build.fail(
            f"{node.op} of {a.dtype} and {b.dtype}, expected one type",
            "the model is damaged: export it again",
        )
    return build(BINARY[node.op], a, b)


@converts(*VARIADIC, "Mean", inputs=(1, 64))
def variadic(build: Builder, node: Node, *values: Value | None) -> Value:
    given = [value for value in values if value is not None]
    total = given[0]
    for value in given[1:]:
        total = build(VARIADIC.get(node.op, "add"), total, value)
    if node.op == "Mean":
        total = build("divide", total, build.like(len(given), total))
    return total


@converts("Pow", inputs=(2, 2))
def power(build: Builder, node: Node, a: Value, b: Value) -> Value:
    return build("power", a, build("cast", b, dtype=a.dtype))


@converts("Mod", inputs=(2, 2))
def mod(build: Builder, node: Node, a: Value, b: Value) -> Value:
    if node.get("fmod", 0):
        raise build.fail("Mod with fmod=1 is not supported", "use fmod=0")
    return build("floor_mod", a, b)


@converts("Reciprocal")
def reciprocal(build: Builder, node: Node, x: Value) -> Value:
    return build("divide", build.like(1, x), x)


@converts("IsInf")
def isinf(build: Builder, node: Node, x: Value) -> Value:
    if not (node.get("detect_positive", 1) and node.get("detect_negative", 1)):
        raise build.fail("IsInf of one sign only is not supported", "detect both signs")
    return build("isinf", x)


@converts("Where", inputs=(3, 3))
def where(build: Builder, node: Node, condition: Value, a: Value, b: Value) -> Value:
    return build("where", condition, a, b)


@converts("Clip", inputs=(1, 3))
def clip(build: Builder, node: Node, x: Value, low: Value | None, high: Value | None) -> Value:
    if low is None and "min" in node.attrs:
        low = build.like(node.attrs["min"], x)
    if high is None and "max" in node.attrs:
        high = build.like(node.attrs["max"], x)
    if low is not None:
        x = build("maximum", x, low)
    return x if high is None else build("minimum", x, high)


@converts("Cast")
def cast(build: Builder, node: Node, x: Value) -> Value:
    return build("cast", x, dtype=dtype_name(build, node.attrs["to"]))


@converts("CastLike", inputs=(2, 2))
def cast_like(build: Builder, node: Node, x: Value, other: Value) -> Value:
    return build("cast", x, dtype=other.dtype)


DTYPES = (
    "float32",
    "float16",
    "float64",
    "bfloat16",
    "int64",
    "int32",
    "int16",
    "int8",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "bool",
)


def dtype_name(build: Builder, code: int) -> str:
    """The name of an ONNX element type that is supported."""
    name = str(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(code)))
    if name not in DTYPES:
        raise build.fail(
            f"element type {onnx.TensorProto.DataType.Name(code)} is not supported",
            f"use one of {', '.join(DTYPES)}",
        )
    return name
