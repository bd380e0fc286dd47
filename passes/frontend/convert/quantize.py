"""Quantised operators, with the arithmetic of the ONNX definitions.

Integers stay integers up to the accumulator, so a quantised model computes here what the standard says.
Four-bit values are held in eight bits.
"""

from __future__ import annotations

import numpy as np

from espalier.passes.frontend import size as sz
from espalier.passes.frontend.build import Builder
from espalier.passes.frontend.convert.activation import leaky_relu
from espalier.passes.frontend.convert.elementwise import dtype_name
from espalier.passes.frontend.convert.linear import conv as float_conv
from espalier.passes.frontend.convert.linear import product
from espalier.passes.frontend.convert.registry import MICROSOFT, Node, converts
from espalier.passes.frontend.plain import axes_of
from espalier.passes.frontend.values import Constant, Value

BOUNDS = {"int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767), "uint16": (0, 65535)}


@converts("QuantizeLinear", since=10, inputs=(2, 3))
@converts("QuantizeLinear", domain=MICROSOFT, inputs=(2, 3))
def quantize_linear(build: Builder, node: Node, x: Value, scale: Value, zero: Value | None) -> Value:
    dtype = zero.dtype if zero is not None else "uint8"
    if zero is None and node.get("output_dtype", 0):
        dtype = dtype_name(build, node.attrs["output_dtype"])
    scale = _spread(build, node, x, scale)
    zero = None if zero is None else _spread(build, node, x, zero)
    return quantize(build, x, scale, zero, dtype)


@converts("DequantizeLinear", since=10, inputs=(2, 3))
@converts("DequantizeLinear", domain=MICROSOFT, inputs=(2, 3))
def dequantize_linear(build: Builder, node: Node, x: Value, scale: Value, zero: Value | None) -> Value:
    scale = _spread(build, node, x, scale)
    zero = None if zero is None else _spread(build, node, x, zero)
    return dequantize(build, x, scale, zero)


def quantize(build: Builder, x: Value, scale: Value, zero: Value | None, dtype: str) -> Value:
    """saturate(round(x / scale) + zero), ties to even."""
    if dtype not in BOUNDS:
        raise build.fail(f"quantisation to {dtype} is not supported", f"use one of {', '.join(BOUNDS)}")
    low, high = BOUNDS[dtype]
    x = build("cast", x, dtype=scale.dtype)
    y = build("round", build("divide", x, scale))
    if zero is not None and not _is_zero(build, zero):
        y = build("add", y, build("cast", zero, dtype=y.dtype))
    y = build("minimum", build("maximum", y, build.like(low, y)), build.like(high, y))
    return build("cast", y, dtype=dtype)


def dequantize(build: Builder, x: Value, scale: Value, zero: Value | None) -> Value:
    """(x - zero) * scale."""
    y = build("cast", x, dtype=scale.dtype)
    if zero is not None and not _is_zero(build, zero):
        y = build("subtract", y, build("cast", zero, dtype=scale.dtype))
    return build("multiply", y, scale)


def _is_zero(build: Builder, zero: Value) -> bool:
    return isinstance(zero, Constant) and not zero.array.any()


def _spread(build: Builder, node: Node, x: Value, v: Value) -> Value:
    """A scale or zero point in a shape that broadcasts with x: per tensor, per axis or per block."""
    if sz.product(v.shape) == 1:
        return build.reshape(v, ())
    (axis,) = axes_of([node.get("axis", 1)], len(x.shape))
    block = node.get("block_size", 0)
    if not block:
        return build.reshape(v, [v.shape[0] if a == axis else 1 for a in range(len(x.shape))])
    inner, wide = list(v.shape), list(v.shape)
    inner.insert(axis + 1, 1)
    wide.insert(axis + 1, block)
    full = list(v.shape)
    full[axis] = v.shape[axis] * block
    v = build.reshape(build.broadcast_to(build.reshape(v, inner), wide), full)
    return build.slice(v, [axis], [0], [x.shape[axis]], [1])


@converts("DynamicQuantizeLinear", since=11)
def dynamic_quantize_linear(build: Builder, node: Node, x: Value) -> list[Value]:
    axes, zero = tuple(range(len(x.shape))), build.like(0, x)
    low = build("minimum", build("min", x, axes=axes, keepdims=False), zero)
    high = build("maximum", build("max", x, axes=axes, keepdims=False), zero)
    scale = build("divide", build("subtract", high, low), build.like(255, x))
    scale = build("where", build("equal", scale, zero), build.like(1, x), scale)
    point = build("round", build("negative", build("divide", low, scale)))
    point = build("minimum", build("maximum", point, zero), build.like(255, x))
    y = build("add", build("round", build("divide", x, scale)), point)
    y = build("minimum", build("maximum", y, zero), build.like(255, x))
    return [build("cast", y, dtype="uint8"), scale, build("cast", point, dtype="uint8")]


@converts("MatMulInteger", since=10, inputs=(2, 4))
def matmul_integer(
    build: Builder, node: Node, a: Value, b: Value, a_zero: Value | None, b_zero: Value | None
) -> Value:
    return integer_product(build, a, b, a_zero, b_zero)


def integer_product(build: Builder, a: Value, b: Value, a_zero: Value | None, b_zero: Value | None) -> Value:
    """(a - a_zero)(b - b_zero) in int32; a vector of zero points is per row of a, per column of b."""
    if a_zero is not None and len(a_zero.shape) == 1 and a_zero.shape[0] != 1:
        a_zero = build.reshape(a_zero, (*a_zero.shape, 1))
    return product(build, _centred(build, a, a_zero), _centred(build, b, b_zero))


def _centred(build: Builder, x: Value, zero: Value | None) -> Value:
    y = build("cast", x, dtype="int32")
    if zero is None or _is_zero(build, zero):
        return y
    if sz.product(zero.shape) == 1:
        zero = build.reshape(zero, ())
    return build("subtract", y, build("cast", zero, dtype="int32"))


@converts("QLinearMatMul", since=10, inputs=(8, 8))
def qlinear_matmul(
    build: Builder,
    node: Node,
    a: Value,
    a_scale: Value,
    a_zero: Value,
    b: Value,
    b_scale: Value,
    b_zero: Value,
    y_scale: Value,
    y_zero: Value,
) -> Value:
    total = build("cast", integer_product(build, a, b, a_zero, b_zero), dtype="float32")
    factor = build("divide", build("multiply", _rows(build, a_scale), b_scale), y_scale)
    return requantize(build, build("multiply", total, factor), y_zero)


def _rows(build: Builder, scale: Value) -> Value:
    return scale if sz.product(scale.shape) == 1 else build.reshape(scale, (*scale.shape, 1))


def requantize(build: Builder, x: Value, zero: Value) -> Value:
    """saturate(round(x) + zero) in the dtype of zero."""
    return quantize(
        build,
        x,
        build.like(1, x),
        build.reshape(zero, ()) if sz.product(zero.shape) == 1 else zero,
        zero.dtype,
    )


@converts("QGemm", domain=MICROSOFT, inputs=(6, 9))
def qgemm(
    build: Builder,
    node: Node,
    a: Value,
    a_scale: Value,
    a_zero: Value,
    b: Value,
    b_scale: Value,
    b_zero: Value,
    c: Value | None,
    y_scale: Value | None,
    y_zero: Value | None,
) -> Value:
    a = build.permute(a, (1, 0)) if node.get("transA", 0) else a
    b = build.permute(b, (1, 0)) if node.get("transB", 0) else b
    total = integer_product(build, a, b, a_zero, b_zero)
    if c is not None:
        total = build("add", total, c)
    factor = build(
        "multiply", build("multiply", a_scale, b_scale), build.like(node.get("alpha", 1.0), a_scale)
    )
    y = build("multiply", build("cast", total, dtype="float32"), factor)
    if y_scale is None or y_zero is None:
        return y
    return requantize(build, build("divide", y, y_scale), y_zero)


@converts("MatMulIntegerToFloat", domain=MICROSOFT, inputs=(4, 7))
def matmul_integer_to_float(
    build: Builder,
    node: Node,
    a: Value,
    b: Value,
    a_scale: Value,
    b_scale: Value,
    a_zero: Value | None,
    b_zero: Value | None,
    bias: Value | None,
) -> Value:
    total = build("cast", integer_product(build, a, b, a_zero, b_zero), dtype=a_scale.dtype)
    y = build("multiply", total, build("multiply", a_scale, b_scale))
    return y if bias is None else build("add", y, bias)


@converts("DynamicQuantizeMatMul", domain=MICROSOFT, inputs=(3, 5))
def dynamic_quantize_matmul(
    build: Builder, node: Node, a: Value, b: Value, b_scale: Value, b_zero: Value | None, bias: Value | None
) -> Value:
    q, scale, zero = dynamic_quantize_linear(build, node, a)
    return matmul_integer_to_float(build, node, q, b, scale, b_scale, zero, b_zero, bias)


@converts("QLinearAdd", "QLinearMul", domain=MICROSOFT, inputs=(7, 8))
def qlinear_binary(
    build: Builder,
    node: Node,
    a: Value,
    a_scale: Value,
    a_zero: Value | None,
    b: Value,
    b_scale: Value,
    b_zero: Value | None,
    y_scale: Value,
    y_zero: Value | None,
) -> Value:
    name = {"QLinearAdd": "add", "QLinearMul": "multiply"}[node.op]
    y = build(name, dequantize(build, a, a_scale, a_zero), dequantize(build, b, b_scale, b_zero))
    return quantize(build, y, y_scale, y_zero, a.dtype)


@converts("QLinearSigmoid", "QLinearSoftmax", "QLinearLeakyRelu", domain=MICROSOFT, inputs=(4, 5))
def qlinear_unary(
    build: Builder,
    node: Node,
    x: Value,
    x_scale: Value,
    x_zero: Value | None,
    y_scale: Value,
    y_zero: Value | None,
) -> Value:
    y = dequantize(build, x, x_scale, x_zero)
    if node.op == "QLinearSigmoid":
        y = build("sigmoid", y)
    elif node.op == "QLinearLeakyRelu":
        y = leaky_relu(build, node, y)
    else:
        y = build("softmax", y, axis=axes_of([node.get("axis", -1)], len(y.shape))[0])
    return quantize(build, y, y_scale, y_zero, x.dtype)


@converts("QLinearConcat", domain=MICROSOFT, inputs=(5, 64))
def qlinear_concat(build: Builder, node: Node, y_scale: Value, y_zero: Value, *rest: Value | None) -> Value:
    given = [value for value in rest if value is not None]
    parts = [dequantize(build, *given[i : i + 3]) for i in range(0, len(given), 3)]
    (axis,) = axes_of([node.attrs["axis"]], len(parts[0].shape))
    return quantize(build, build.concat(parts, axis), y_scale, y_zero, given[0].dtype)


@converts("QLinearConv", since=10, inputs=(8, 9))
def qlinear_conv(
    build: Builder,
    node: Node,
    x: Value,
    x_scale: Value,
    x_zero: Value,
    w: Value,
    w_scale: Value,
    w_zero: Value,
    y_scale: Value,
    y_zero: Value,
    bias: Value | None,
) -> Value:
    column = (-1, *([1] * (len(w.shape) - 1)))
    along = [
        build.reshape(v, [w.shape[0] if n == -1 else n for n in column]) if sz.product(v.shape) != 1 else v
        for v in (w_scale, w_zero)
    ]
    weight = dequantize(build, w, along[0], along[1])
    if bias is not None:
        bias = build("multiply", build("cast", bias, dtype="float32"), build("multiply", x_scale, w_scale))
    y = float_conv(build, node, dequantize(build, x, x_scale, x_zero), weight, bias)
    return quantize(build, y, y_scale, y_zero, y_zero.dtype)


@converts("MatMulNBits", domain=MICROSOFT, inputs=(3, 6))
def matmul_nbits(
    build: Builder,
    node: Node,
    a: Value,
    b: Value,
    scales: Value,
    zeros: Value | None,
    groups: Value | None,
    bias: Value | None,
) -> Value:
    bits, block, n, k = (int(node.attrs[key]) for key in ("bits", "block_size", "N", "K"))
    if bits not in (4, 8) or groups is not None:
        raise build.fail(
            f"MatMulNBits with {bits} bits or g_idx is not supported", "use 4 or 8 bits without g_idx"
        )
    packed = build.array(b, "the weight of MatMulNBits")
    blocks = -(-k // block)
    codes = _unpack(packed.reshape(n, blocks, -1), bits)[:, :, :block]
    if zeros is None:
        points = np.full((n, blocks), 1 << (bits - 1), np.float32)
    else:
        raw = build.array(zeros, "the zero points of MatMulNBits")
        points = (
            raw.reshape(n, blocks) if raw.dtype.kind == "f" else _unpack(raw.reshape(n, -1), bits)[:, :blocks]
        )
    factor = build.array(scales, "the scales of MatMulNBits").reshape(n, blocks, 1)
    weight = ((codes.astype(np.float32) - points[:, :, None]) * factor).reshape(n, -1)[:, :k]
    source = b.source if isinstance(b, Constant) else None
    y = build.matmul(a, Constant(weight.T.astype(a.dtype), source))
    return y if bias is None else build("add", y, bias)


def _unpack(packed: np.ndarray, bits: int) -> np.ndarray:
    """Bytes to codes along the last axis, low half first."""
    if bits == 8:
        return packed
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)
