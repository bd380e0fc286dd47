"""The plain operators: for each one how its shape follows and what it computes in numpy.

A plain operator is what one Relax operator says (emit.py maps them one to one). The numpy side folds
constants and lets the tests run a converted graph without a compiler.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from espalier.passes.frontend import size as sz
from espalier.passes.frontend.size import Dim
from espalier.passes.frontend.values import Shape

Attrs = dict[str, Any]


class ShapeError(ValueError):
    """Shapes that do not go together; the converter adds where."""


class EqualDims(Exception):
    """Two dimensions must be one: the conversion starts again with `name` replaced."""

    def __init__(self, name: str, value: Dim) -> None:
        super().__init__(f"{name} = {value}")
        self.name = name
        self.value = value


@dataclass(frozen=True)
class PlainOp:
    """`infer(shapes, dtypes, attrs) -> (shape, dtype)`; `evaluate(*arrays, **attrs) -> array`."""

    infer: Callable[[Sequence[Shape], Sequence[str], Attrs], tuple[Shape, str]]
    evaluate: Callable[..., np.ndarray]
    elementwise: bool = False


def must_equal(a: Dim, b: Dim, what: str) -> None:
    """Returns when two dimensions are equal, and makes them equal where that needs one name replaced."""
    if a == b:
        return
    gap = a - b
    common = _common(gap)
    left, right = sz.divide_exact(a, common), sz.divide_exact(b, common)
    if left is None or right is None:
        left, right = a, b
    for one, other in ((left, right), (right, left)):
        name = sz.name_of(one)
        if name is None or name in sz.symbols(other):
            continue
        if isinstance(other, int) and other >= 1:
            raise EqualDims(name, other)
        if sz.name_of(other) is not None:
            # keep the name that came first in the model: the converter orders them
            raise EqualDims(name, other)
    raise ShapeError(f"{what}: {a} against {b}")


def _common(value: Dim) -> Dim:
    pairs = list(sz.terms(value))
    powers = dict(pairs[0][0])
    for monomial, _ in pairs[1:]:
        other = dict(monomial)
        powers = {atom: min(power, other[atom]) for atom, power in powers.items() if atom in other}
    factor = math.gcd(*(abs(f) for _, f in pairs))
    return factor * sz.product(sz.of(atom) for atom, power in powers.items() for _ in range(power))


def broadcast(*shapes: Shape) -> Shape:
    """The common shape by numpy's rule."""
    rank = max(map(len, shapes))
    result: list[Dim] = []
    for axis in range(-rank, 0):
        extent: Dim = 1
        for shape in shapes:
            if -axis > len(shape) or shape[axis] == 1 or shape[axis] == extent:
                continue
            if extent == 1:
                extent = shape[axis]
            else:
                must_equal(extent, shape[axis], f"shapes {show(*shapes)} do not broadcast")
        result.append(extent)
    return tuple(result)


def show(*shapes: Shape) -> str:
    """Shapes as text."""
    return " and ".join("[" + ", ".join(map(str, shape)) + "]" for shape in shapes)


def axes_of(axes: Sequence[int], rank: int) -> tuple[int, ...]:
    """Axes counted from the left."""
    for axis in axes:
        if not -rank <= axis < rank:
            raise ShapeError(f"axis {axis} is outside a tensor of {rank} dimensions")
    return tuple(axis % rank for axis in axes)


def _same(shapes: Sequence[Shape], dtypes: Sequence[str], attrs: Attrs) -> tuple[Shape, str]:
    return broadcast(*shapes), dtypes[0]


def _bool(shapes: Sequence[Shape], dtypes: Sequence[str], attrs: Attrs) -> tuple[Shape, str]:
    return broadcast(*shapes), "bool"


def _where(shapes: Sequence[Shape], dtypes: Sequence[str], attrs: Attrs) -> tuple[Shape, str]:
    return broadcast(*shapes), dtypes[1]


def _cast(shapes: Sequence[Shape], dtypes: Sequence[str], attrs: Attrs) -> tuple[Shape, str]:
    return shapes[0], attrs["dtype"]


def _to_shape(shapes: Sequence[Shape], dtypes: Sequence[str], attrs: Attrs) -> tuple[Shape, str]:
    return attrs["shape"], dtypes[0]


def _permute(shapes: Sequence[Shape], dtypes: Sequence[str], attrs: Attrs) -> tuple[Shape, str]:
    if sorted(attrs["axes"]) != list(range(len(shapes[0]))):
        raise ShapeError(f"permutation {list(attrs['axes'])} of a tensor of {len(shapes[0])} dimensions")
    return tuple(shapes[0][axis] for axis in attrs["axes"]), dtypes[0]


def _concat(shapes: Sequence[Shape], dtypes: Sequence[str], attrs: Attrs) -> tuple[Shape, str]:
    result = list(shapes[0])
    total: Dim = 0
    for shape in shapes:
        if len(shape) != len(result):
            raise ShapeError(f"concatenation of {show(*shapes)}")
        for axis, extent in enumerate(shape):
            if axis != attrs["axis"]:
                must_equal(result[axis], extent, f"concatenation of {show(*shapes)}")
        total = total + shape[attrs["axis"]]
    result[attrs["axis"]] = total
    return tuple(result), dtypes[0]


def _slice(shapes: Sequence[Shape], dtypes: Sequence[str], attrs: Attrs) -> tuple[Shape, str]:
    result = list(shapes[0])
    for axis, begin, end, stride in zip(
        attrs["axes"], attrs["begins"], attrs["ends"], attrs["strides"], strict=True
    ):
        result[axis] = sz.floordiv(end - begin + stride - 1, stride)
    return tuple(result), dtypes[0]


def _take(shapes: Sequence[Shape], dtypes: Sequence[str], attrs: Attrs) -> tuple[Shape, str]:
    axis = attrs["axis"]
    return (*shapes[0][:axis], *shapes[1], *shapes[0][axis + 1 :]), dtypes[0]


def _matmul(shapes: Sequence[Shape], dtypes: Sequence[str], attrs: Attrs) -> tuple[Shape, str]:
    a, b = shapes
    if len(a) < 2 or len(b) < 2:
        raise ShapeError(f"product of {show(a, b)}")
    must_equal(a[-1], b[-2], f"product of {show(a, b)}")
    batch = broadcast(a[:-2], b[:-2]) if len(a) > 2 or len(b) > 2 else ()
    return (*batch, a[-2], b[-1]), attrs.get("out_dtype", dtypes[0])


def _first(shapes: Sequence[Shape], dtypes: Sequence[str], attrs: Attrs) -> tuple[Shape, str]:
    return shapes[0], dtypes[0]


def _reduce(shapes: Sequence[Shape], dtypes: Sequence[str], attrs: Attrs) -> tuple[Shape, str]:
    shape = [1 if axis in attrs["axes"] else extent for axis, extent in enumerate(shapes[0])]
    if not attrs["keepdims"]:
        shape = [extent for axis, extent in enumerate(shape) if axis not in attrs["axes"]]
    return tuple(shape), dtypes[0]


def _argreduce(shapes: Sequence[Shape], dtypes: Sequence[str], attrs: Attrs) -> tuple[Shape, str]:
    return _reduce(shapes, dtypes, attrs | {"axes": (attrs["axis"],)})[0], "int64"


def _pad(shapes: Sequence[Shape], dtypes: Sequence[str], attrs: Attrs) -> tuple[Shape, str]:
    pads = zip(shapes[0], attrs["before"], attrs["after"], strict=True)
    return tuple(extent + before + after for extent, before, after in pads), dtypes[0]


def _conv(shapes: Sequence[Shape], dtypes: Sequence[str], attrs: Attrs) -> tuple[Shape, str]:
    x, w = shapes
    rank = len(x) - 2
    if len(w) != len(x):
        raise ShapeError(f"convolution of {show(x, w)}")
    must_equal(x[1], w[1] * attrs["groups"], f"convolution of {show(x, w)}: channels")
    space = []
    for i in range(rank):
        reach = (w[2 + i] - 1) * attrs["dilation"][i] + 1
        room = x[2 + i] + attrs["padding"][i] + attrs["padding"][rank + i] - reach
        space.append(sz.floordiv(room, attrs["strides"][i]) + 1)
    return (x[0], w[0], *space), dtypes[0]


def _repeat_shape(shapes: Sequence[Shape], dtypes: Sequence[str], attrs: Attrs) -> tuple[Shape, str]:
    return tuple(n * r for n, r in zip(shapes[0], attrs["repeats"], strict=True)), dtypes[0]


def _arange(shapes: Sequence[Shape], dtypes: Sequence[str], attrs: Attrs) -> tuple[Shape, str]:
    return (attrs["stop"] - attrs["start"],), attrs["dtype"]


def _indices(shapes: Sequence[Shape], dtypes: Sequence[str], attrs: Attrs) -> tuple[Shape, str]:
    return shapes[1], dtypes[0]


def _erf(x: np.ndarray) -> np.ndarray:
    return np.vectorize(math.erf, otypes=[np.float64])(x.astype(np.float64)).astype(x.dtype)


def _softmax(x: np.ndarray, axis: int) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        e = np.exp(x - x.max(axis=axis, keepdims=True))
        return e / e.sum(axis=axis, keepdims=True)


def _layer_norm(x: np.ndarray, scale: np.ndarray, bias: np.ndarray, axis: int, epsilon: float) -> np.ndarray:
    axes = tuple(range(axis, x.ndim))
    mean = x.mean(axis=axes, keepdims=True)
    var = ((x - mean) ** 2).mean(axis=axes, keepdims=True)
    return ((x - mean) / np.sqrt(var + x.dtype.type(epsilon)) * scale + bias).astype(x.dtype)


def _slice_np(
    x: np.ndarray, axes: Sequence[int], begins: Sequence[int], ends: Sequence[int], strides: Sequence[int]
) -> np.ndarray:
    cut = [slice(None)] * x.ndim
    for axis, begin, end, stride in zip(axes, begins, ends, strides, strict=True):
        cut[axis] = slice(begin, end, stride)
    return x[tuple(cut)]


def _conv_np(
    x: np.ndarray,
    w: np.ndarray,
    strides: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> np.ndarray:
    rank = x.ndim - 2
    pads = [(0, 0), (0, 0), *((padding[i], padding[rank + i]) for i in range(rank))]
    x = np.pad(x, pads)
    reach = [(w.shape[2 + i] - 1) * dilation[i] + 1 for i in range(rank)]
    windows = np.lib.stride_tricks.sliding_window_view(x, reach, axis=tuple(range(2, 2 + rank)))
    step = (
        [slice(None)] * 2 + [slice(None, None, s) for s in strides] + [slice(None, None, d) for d in dilation]
    )
    windows = windows[tuple(step)]
    parts = []
    per_in, per_out = w.shape[1], w.shape[0] // groups
    for g in range(groups):
        part = windows[:, g * per_in : (g + 1) * per_in]
        kernel = w[g * per_out : (g + 1) * per_out]
        ins = [1, *range(2 + rank, 2 + 2 * rank)]
        parts.append(np.moveaxis(np.tensordot(part, kernel, (ins, list(range(1, 2 + rank)))), -1, 1))
    return np.concatenate(parts, axis=1).astype(x.dtype)


def _take_np(x: np.ndarray, indices: np.ndarray, axis: int) -> np.ndarray:
    return np.take(x, indices, axis=axis, mode="wrap")


def _div(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return a / b if a.dtype.kind == "f" or a.dtype.kind == "V" else np.trunc(a / b).astype(a.dtype)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return (1 / (1 + np.exp(-x.astype(np.float64)))).astype(x.dtype)


def _gelu(x: np.ndarray) -> np.ndarray:
    return (x.astype(np.float64) * 0.5 * (1 + _erf(x.astype(np.float64) / math.sqrt(2)))).astype(x.dtype)


def _gelu_tanh(x: np.ndarray) -> np.ndarray:
    y = x.astype(np.float64)
    return (0.5 * y * (1 + np.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)))).astype(x.dtype)


def _quiet(f: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    def g(*args: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return f(*args)

    return g


def _cast_np(x: np.ndarray, dtype: str) -> np.ndarray:
    with np.errstate(all="ignore"):
        return x.astype(dtype)


def _reduce_np(f: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    def g(x: np.ndarray, axes: tuple[int, ...], keepdims: bool) -> np.ndarray:
        return np.asarray(f(x, axis=tuple(axes), keepdims=keepdims)).astype(x.dtype)

    return g


def _unary(f: Callable[..., np.ndarray]) -> PlainOp:
    return PlainOp(_same, _quiet(f), elementwise=True)


def _predicate(f: Callable[..., np.ndarray]) -> PlainOp:
    return PlainOp(_bool, _quiet(f), elementwise=True)


def _scatter(x: np.ndarray, indices: np.ndarray, updates: np.ndarray, axis: int) -> np.ndarray:
    y = x.copy()
    np.put_along_axis(y, indices % x.shape[axis], updates, axis)
    return y


def _scatter_nd(x: np.ndarray, indices: np.ndarray, updates: np.ndarray) -> np.ndarray:
    y = x.copy()
    y[tuple(np.moveaxis(indices, -1, 0))] = updates
    return y


def _argmax_np(f: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    return lambda x, axis, keepdims: np.asarray(f(x, axis=axis, keepdims=keepdims)).astype(np.int64)


OPS: dict[str, PlainOp] = {
    **{
        name: _unary(f)
        for name, f in {
            "abs": np.abs,
            "negative": np.negative,
            "exp": np.exp,
            "log": np.log,
            "sqrt": np.sqrt,
            "rsqrt": lambda x: (1 / np.sqrt(x)).astype(x.dtype),
            "erf": _erf,
            "tanh": np.tanh,
            "sigmoid": _sigmoid,
            "sin": np.sin,
            "cos": np.cos,
            "floor": np.floor,
            "ceil": np.ceil,
            "round": np.rint,
            "sign": np.sign,
            "relu": lambda x: np.maximum(x, 0),
            "gelu": _gelu,
            "gelu_tanh": _gelu_tanh,
            "silu": lambda x: (x * _sigmoid(x)).astype(x.dtype),
            "bitwise_not": np.invert,
            "add": np.add,
            "subtract": np.subtract,
            "multiply": np.multiply,
            "divide": _div,
            "floor_divide": np.floor_divide,
            "floor_mod": np.mod,
            "power": lambda a, b: np.power(a, b).astype(a.dtype),
            "minimum": np.minimum,
            "maximum": np.maximum,
            "bitwise_and": np.bitwise_and,
            "bitwise_or": np.bitwise_or,
            "bitwise_xor": np.bitwise_xor,
        }.items()
    },
    **{
        name: _predicate(f)
        for name, f in {
            "isnan": np.isnan,
            "isinf": np.isinf,
            "logical_not": np.logical_not,
            "logical_and": np.logical_and,
            "logical_or": np.logical_or,
            "logical_xor": np.logical_xor,
            "equal": np.equal,
            "less": np.less,
            "less_equal": np.less_equal,
            "greater": np.greater,
            "greater_equal": np.greater_equal,
        }.items()
    },
    "where": PlainOp(_where, np.where, elementwise=True),
    "cast": PlainOp(_cast, _cast_np, elementwise=True),
    "reshape": PlainOp(_to_shape, lambda x, shape: x.reshape([int(n) for n in shape])),
    "broadcast_to": PlainOp(_to_shape, lambda x, shape: np.broadcast_to(x, [int(n) for n in shape])),
    "permute_dims": PlainOp(_permute, lambda x, axes: x.transpose(axes)),
    "concat": PlainOp(_concat, lambda *x, axis: np.concatenate(x, axis)),
    "slice": PlainOp(_slice, _slice_np),
    "flip": PlainOp(_first, lambda x, axis: np.flip(x, axis)),
    "take": PlainOp(_take, _take_np),
    "matmul": PlainOp(_matmul, lambda a, b, out_dtype=None: np.matmul(a, b).astype(out_dtype or a.dtype)),
    "softmax": PlainOp(_first, _softmax),
    "layer_norm": PlainOp(_first, _layer_norm),
    "sum": PlainOp(_reduce, _reduce_np(np.sum)),
    "mean": PlainOp(_reduce, _reduce_np(np.mean)),
    "max": PlainOp(_reduce, _reduce_np(np.max)),
    "min": PlainOp(_reduce, _reduce_np(np.min)),
    "prod": PlainOp(_reduce, _reduce_np(np.prod)),
    "argmax": PlainOp(_argreduce, _argmax_np(np.argmax)),
    "argmin": PlainOp(_argreduce, _argmax_np(np.argmin)),
    "cumsum": PlainOp(_first, lambda x, axis: np.cumsum(x, axis).astype(x.dtype)),
    "pad": PlainOp(
        _pad,
        lambda x, before, after, value: np.pad(
            x, list(zip(before, after, strict=True)), constant_values=value
        ),
    ),
    "conv": PlainOp(_conv, _conv_np),
    "tile": PlainOp(_repeat_shape, lambda x, repeats: np.tile(x, repeats)),
    "arange": PlainOp(_arange, lambda start, stop, dtype: np.arange(start, stop, dtype=dtype)),
    "gather_elements": PlainOp(
        _indices, lambda x, i, axis: np.take_along_axis(x, np.where(i < 0, i + x.shape[axis], i), axis)
    ),
    "scatter_elements": PlainOp(_first, _scatter),
    "scatter_nd": PlainOp(_first, _scatter_nd),
}
