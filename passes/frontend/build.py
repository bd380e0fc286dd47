"""The builder: converters say plain operators, it folds, keeps sizes symbolic, and records the rest.

Constants fold in numpy, integers that depend only on dimensions and positions stay formulas (`Sizes`,
`Index`), a broadcast waits until an operator needs it, and operators that do nothing vanish.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from espalier.errors import ModelError
from espalier.passes.frontend import formula
from espalier.passes.frontend import size as sz
from espalier.passes.frontend.plain import OPS, ShapeError, broadcast, must_equal, show
from espalier.passes.frontend.size import Dim
from espalier.passes.frontend.values import (
    Broadcast,
    Constant,
    Index,
    Op,
    Shape,
    Sizes,
    Stack,
    Tensor,
    Value,
    as_index,
    dims,
    extents,
    settle,
    small,
)

MAX_ELEMENTS = 1 << 31  # of one tensor
FREE_FOLD = 1 << 24  # elements a folded constant may always have
FREE_TOTAL = 1 << 27  # and all of them together
MAX_GROWTH = 8  # beyond that, this many times the elements of what they are folded from
MAX_PRODUCT = 1 << 33  # multiplications to fold a matrix product


class Builder:
    """Collects the plain operators of one graph whose weights have `given` elements."""

    def __init__(self, given: int = 0) -> None:
        self.node = ""
        self.ops: list[Tensor] = []
        self.limits: dict[str, int] = {}
        self.given = given
        self.folded = 0
        self.origins: dict[Tensor, Value] = {}
        self._known: dict[tuple[Any, ...], Tensor] = {}

    def __call__(self, name: str, *values: Value, **attrs: Any) -> Value:
        """The value of a plain operator applied to values."""
        if OPS[name].elementwise:
            return self._elementwise(name, values, attrs)
        concrete = tuple(self.tensor(value) for value in values)
        folded = self._fold(name, concrete, attrs)
        return folded if folded is not None else self._emit(name, concrete, attrs)

    def fail(self, what: str, hint: str = "export the model again, or report the operator") -> ModelError:
        """A refusal that names the node being converted."""
        return ModelError(f"{self.node}: {what}", hint=hint)

    # --- values

    def const(self, value: Any, dtype: str) -> Constant:
        """A constant that the converter itself needs."""
        return Constant(np.asarray(value, dtype=np.dtype(dtype)))

    def like(self, value: Any, other: Value) -> Constant:
        """A scalar in the dtype of another value."""
        return self.const(value, other.dtype)

    def tensor(self, value: Value) -> Tensor | Constant:
        """The value as something an operator can read."""
        if isinstance(value, Broadcast):
            if isinstance(value.base, Constant) and self._may_fold(value.shape, [value.base.array]):
                return Constant(np.broadcast_to(value.base.array, extents(value.shape)), value.base.source)
            if sz.product(value.base.shape) == sz.product(value.shape):
                return self.tensor(self.reshape(value.base, value.shape))
            return self._emit("broadcast_to", (value.base,), {"shape": value.shape})
        if isinstance(value, Sizes):
            parts = [self.scalar(n, value.dtype) for n in value.array.reshape(-1)]
            ones = [self.tensor(self.reshape(part, (1,))) for part in parts]
            flat = ones[0] if len(ones) == 1 else self._emit("concat", tuple(ones), {"axis": 0})
            return self.tensor(self.reshape(flat, value.shape))
        if isinstance(value, Index):
            return self.tensor(formula.compute(self, value))  # pyright: ignore[reportArgumentType]
        if isinstance(value, Stack):
            full = [self.tensor(part) for part in value.parts]
            return self._emit("concat", tuple(full), {"axis": len(value.shape) - 1})
        return value

    def scalar(self, value: Dim, dtype: str) -> Value:
        """A dimension as a 0-D tensor."""
        if isinstance(value, int):
            return self.const(value, dtype)
        one = self._emit("arange", (), {"start": value, "stop": value + 1, "dtype": "int64"})
        return self("cast", self.reshape(one, ()), dtype=dtype)

    def dims(self, value: Value, what: str) -> list[Dim]:
        """The integers that a value holds, which must not depend on data."""
        known = dims(value)
        if known is None:
            raise self.fail(
                f"{what} depends on the input's data",
                "only shapes that follow from the input's shape are supported",
            )
        return known

    def array(self, value: Value, what: str) -> np.ndarray:
        """The numbers of a value that must be constant."""
        if isinstance(value, Broadcast):
            value = self.tensor(value)
        if not isinstance(value, Constant):
            raise self.fail(f"{what} is not constant", "fold it to a constant when exporting")
        return value.array

    def limit(self, value: Dim, most: int) -> bool:
        """Records that a size must not exceed `most`; False where that is no bound of one dimension."""
        names = sz.symbols(value)
        if len(names) != 1:
            return False
        name = next(iter(names))
        rest = most - (value - sz.symbol(name))
        if not isinstance(rest, int):
            return False
        self.limits[name] = min(rest, self.limits.get(name, rest))
        return True

    # --- shape operators

    def reshape(self, value: Value, shape: Sequence[Dim]) -> Value:
        """The same elements in another shape; the counts must agree."""
        shape = tuple(shape)
        if shape == value.shape:
            return value
        try:
            must_equal(sz.product(value.shape), sz.product(shape), f"reshape of {show(value.shape, shape)}")
        except ShapeError as error:
            raise self.fail(str(error)) from None
        if isinstance(value, Sizes):
            return Sizes(value.array.reshape(extents(shape)), value.dtype)
        if isinstance(value, Constant):
            return Constant(value.array.reshape(extents(shape)), value.source)
        moved = formula.reshape(value, shape) if isinstance(value, Index) else None
        if moved is not None:
            return moved
        if isinstance(value, Broadcast) and value.base.shape in ((), (1,)):
            return Broadcast(self.reshape(value.base, ()), shape)  # pyright: ignore[reportArgumentType]
        if isinstance(value, Broadcast):
            base = self._unit_reshape(value, shape)
            if base is not None:
                return base
        tensor = self.tensor(value)
        if isinstance(tensor, Tensor) and tensor.op is not None and tensor.op.name == "reshape":
            return self.reshape(tensor.op.inputs[0], shape)
        return self._emit("reshape", (tensor,), {"shape": shape})

    def _unit_reshape(self, value: Broadcast, shape: Shape) -> Value | None:
        """A reshape that only adds or removes axes of extent 1, moved below the broadcast."""
        if [n for n in value.shape if n != 1] != [n for n in shape if n != 1]:
            return None
        padded = (1,) * (len(value.shape) - len(value.base.shape)) + value.base.shape
        kept = iter([padded[axis] for axis, n in enumerate(value.shape) if n != 1])
        below = tuple(1 if n == 1 else next(kept) for n in shape)
        return self.broadcast_to(self.reshape(value.base, below), shape)

    def permute(self, value: Value, axes: Sequence[int]) -> Value:
        """The axes in another order."""
        axes = tuple(axes)
        if axes == tuple(range(len(axes))) and len(axes) == len(value.shape):
            return value
        if isinstance(value, Constant):
            return Constant(value.array.transpose(axes), value.source)
        if isinstance(value, Index):
            return formula.permute(value, axes)
        if isinstance(value, Broadcast):
            padded = self.reshape(value.base, (1,) * (len(axes) - len(value.base.shape)) + value.base.shape)
            return Broadcast(self.permute(padded, axes), tuple(value.shape[a] for a in axes))  # pyright: ignore[reportArgumentType]
        tensor = self.tensor(value)
        if isinstance(tensor, Tensor) and tensor.op is not None and tensor.op.name == "permute_dims":
            before: Any = tensor.op.attrs["axes"]
            return self.permute(tensor.op.inputs[0], [before[axis] for axis in axes])
        return self._emit("permute_dims", (tensor,), {"axes": axes})

    def broadcast_to(self, value: Value, shape: Sequence[Dim]) -> Value:
        """The value in a larger shape, by numpy's rule in one direction."""
        shape = tuple(shape)
        if shape == value.shape:
            return value
        self._check(shape)
        count = _count(shape)
        if isinstance(value, Constant) and count is not None and count <= 16 * value.array.size:
            return Constant(np.broadcast_to(value.array, extents(shape)), value.source)  # pyright: ignore[reportArgumentType]
        index = as_index(value) if isinstance(value, Index | Sizes) else None
        if index is not None:
            return settle(Index(shape, index.expr, index.dtype))
        if isinstance(value, Broadcast):
            return Broadcast(value.base, shape)
        return Broadcast(self.tensor(value), shape)

    def concat(self, values: Sequence[Value], axis: int) -> Value:
        """Values one after the other along an axis."""
        if len(values) == 1:
            return values[0]
        if all(isinstance(v, Constant | Sizes) for v in values) and any(isinstance(v, Sizes) for v in values):
            arrays = [v.array.astype(object) for v in values]  # pyright: ignore[reportAttributeAccessIssue]
            return Sizes(np.concatenate(arrays, axis), values[0].dtype)
        parts = [formula.squeezed(v) for v in values]
        last = axis == len(values[0].shape) - 1
        if last and all(part is not None for part in parts) and any(isinstance(v, Index) for v in values):
            return Stack(tuple(part for part in parts if part is not None))
        return self("concat", *values, axis=axis)

    def slice(
        self,
        value: Value,
        axes: Sequence[int],
        begins: Sequence[Dim],
        ends: Sequence[Dim],
        strides: Sequence[int],
    ) -> Value:
        """A slice with bounds that are already clamped; strides are positive."""
        keep = [
            i
            for i, axis in enumerate(axes)
            if not (begins[i] == 0 and ends[i] == value.shape[axis] and strides[i] == 1)
        ]
        if not keep:
            return value
        axes, begins = [axes[i] for i in keep], [begins[i] for i in keep]
        ends, strides = [ends[i] for i in keep], [strides[i] for i in keep]
        index = as_index(value)
        if isinstance(value, Sizes) or (
            isinstance(value, Constant) and all(isinstance(n, int) for n in (*begins, *ends))
        ):
            cut = [slice(None)] * len(value.shape)
            for axis, begin, end, stride in zip(axes, begins, ends, strides, strict=True):
                cut[axis] = slice(begin, end, stride)
            array = value.array[tuple(cut)]
            return Constant(array, value.source) if isinstance(value, Constant) else small(array, value.dtype)
        attrs = {"axes": tuple(axes), "begins": tuple(begins), "ends": tuple(ends), "strides": tuple(strides)}
        if index is not None:
            return formula.cut(index, attrs)
        if isinstance(value, Broadcast):
            padded = (1,) * (len(value.shape) - len(value.base.shape)) + value.base.shape
            if all(padded[axis] == 1 for axis in axes):
                shape = OPS["slice"].infer([value.shape], [value.dtype], attrs)[0]
                return self.broadcast_to(value.base, shape)
        return self("slice", value, **attrs)

    def matmul(self, a: Value, b: Value, **attrs: Any) -> Value:
        """The matrix product; constant weights of rank 2 end up right of the product as [K, N]."""
        a, b = self.tensor(a), self.tensor(b)
        for weight in (a, b):
            if isinstance(weight, Constant) and not np.isfinite(weight.array).all():
                raise self.fail(
                    f"weight {weight.source or ''} holds NaN or infinity", "train or export the model again"
                )
        if isinstance(b, Constant) and not isinstance(a, Constant):
            lead = b.array.shape[:-2]
            if lead and all(n == 1 for n in lead):
                out = max(len(a.shape), len(b.shape))
                flat = Constant(b.array.reshape(b.array.shape[-2:]), b.source)
                y = self("matmul", a, flat, **attrs)
                return self.reshape(y, (1,) * (out - len(y.shape)) + y.shape)
        if isinstance(a, Constant) and not isinstance(b, Constant) and len(b.shape) >= 2:
            lead = a.array.shape[:-2]
            if all(n == 1 for n in lead):
                flat = Constant(a.array.reshape(a.array.shape[-2:]).T, a.source)
                swap = (*range(len(b.shape) - 2), len(b.shape) - 1, len(b.shape) - 2)
                y = self.permute(self("matmul", self.permute(b, swap), flat, **attrs), swap)
                out = max(len(a.shape), len(b.shape))
                return self.reshape(y, (1,) * (out - len(y.shape)) + y.shape)
        return self("matmul", a, b, **attrs)

    # --- inside

    def _fold(self, name: str, values: Sequence[Value], attrs: dict[str, Any]) -> Constant | None:
        if not all(isinstance(value, Constant) for value in values) or _symbolic(attrs):
            return None
        arrays = [value.array for value in values]  # pyright: ignore[reportAttributeAccessIssue]
        shape, dtype = self._infer(name, values, attrs)
        if name == "matmul" and arrays[0].size * arrays[1].shape[-1] > MAX_PRODUCT:
            return None
        if not self._may_fold(shape, arrays):
            return None
        result = np.asarray(OPS[name].evaluate(*arrays, **attrs))
        if str(result.dtype) != dtype:
            result = result.astype(dtype)
        return Constant(result, _source(values))  # pyright: ignore[reportArgumentType]

    def _may_fold(self, shape: Shape, arrays: Sequence[np.ndarray]) -> bool:
        """Whether a constant of that shape is in proportion to what it is folded from, and to the model."""
        count = _count(shape)
        if count is None or count > max(FREE_FOLD, MAX_GROWTH * sum(map(_stored, arrays))):
            return False
        self.folded += count
        most = FREE_TOTAL + MAX_GROWTH * self.given
        if self.folded > most:
            raise self.fail(
                f"the constants of the model unfold to more than {most} elements",
                "the model is damaged: export it again",
            )
        return True

    def _check(self, shape: Shape) -> None:
        """Refuses tensors without elements, and ones that no machine holds."""
        if any(isinstance(n, int) and n < 1 for n in shape):
            raise self.fail(
                f"a tensor of shape {show(shape)} has no elements", "empty tensors are not supported"
            )
        count = sz.lower(sz.product(shape))
        if count is not None and count > MAX_ELEMENTS:
            raise self.fail(
                f"a tensor of shape {show(shape)} has more than {MAX_ELEMENTS} elements",
                "the model is damaged: export it again",
            )

    def _infer(self, name: str, values: Sequence[Value], attrs: dict[str, Any]) -> tuple[Shape, str]:
        try:
            return OPS[name].infer([v.shape for v in values], [v.dtype for v in values], attrs)
        except ShapeError as error:
            raise self.fail(
                str(error), "the shapes in the model contradict each other: export it again"
            ) from None

    def _emit(self, name: str, values: tuple[Tensor | Constant, ...], attrs: dict[str, Any]) -> Tensor:
        shape, dtype = self._infer(name, values, attrs)
        self._check(shape)
        key = (name, *map(_identity, values), repr_attrs(attrs))
        if key not in self._known:
            op = Op(name, values, attrs, self.node)
            result = Tensor(shape, dtype, f"t{len(self.ops)}", op)
            self.ops.append(result)
            self._known[key] = result
        return self._known[key]

    def _elementwise(self, name: str, values: Sequence[Value], attrs: dict[str, Any]) -> Value:
        simple = self._simplify(name, values, attrs)
        if simple is not None:
            return simple
        full, _ = self._infer(name, values, attrs)
        folded = self._fold(name, values, attrs)
        if folded is not None:
            return folded
        known = formula.elementwise(name, values, attrs, full)
        if known is not None:
            return known
        bases = _scalars(tuple(self._base(value) for value in values))
        folded = self._fold(name, bases, attrs)
        result = folded if folded is not None else self._emit(name, bases, attrs)
        if name == "cast" and isinstance(result, Tensor) and isinstance(values[0], Sizes | Index):
            self.origins[result] = values[0]
        return result if result.shape == full else Broadcast(result, full)

    def _base(self, value: Value) -> Tensor | Constant:
        if isinstance(value, Index):
            value = formula.compute(self, value)  # pyright: ignore[reportArgumentType]
        return value.base if isinstance(value, Broadcast) else self.tensor(value)

    def _simplify(self, name: str, values: Sequence[Value], attrs: dict[str, Any]) -> Value | None:
        """What an operator that does nothing passes on."""
        if name == "cast" and values[0].dtype == attrs["dtype"]:
            return values[0]
        if name in ("multiply", "divide") and values[0].dtype == values[1].dtype:
            for one, other in (values, values[::-1])[: 2 if name == "multiply" else 1]:
                if isinstance(other, Constant) and other.array.size == 1 and (other.array == 1).all():
                    return self.broadcast_to(one, broadcast(one.shape, other.shape))
        if name in ("logical_and", "logical_or"):
            neutral = name == "logical_and"
            for one, other in (values, values[::-1]):
                if truth(one) is neutral:
                    return self.broadcast_to(other, broadcast(one.shape, other.shape))
        if name == "where" and truth(values[0]) is not None:
            chosen = values[1] if truth(values[0]) else values[2]
            return self.broadcast_to(chosen, self._infer(name, values, attrs)[0])
        return None


def _scalars(values: tuple[Tensor | Constant, ...]) -> tuple[Tensor | Constant, ...]:
    """Operands of an elementwise operator, with constants of one element as scalars where the rank allows."""
    rank = (
        max(len(value.shape) for value in values if not _single(value))
        if not all(map(_single, values))
        else -1
    )
    return tuple(
        Constant(value.array.reshape(()), value.source)
        if isinstance(value, Constant) and _single(value) and 0 < len(value.shape) <= rank
        else value
        for value in values
    )


def _single(value: Tensor | Constant) -> bool:
    return isinstance(value, Constant) and value.array.size == 1


def _identity(value: Tensor | Constant) -> object:
    """A key that equal scalars share."""
    if isinstance(value, Constant) and value.array.size == 1:
        return value.shape, value.dtype, value.array.tobytes()
    return id(value)


def truth(value: Value) -> bool | None:
    """The one truth value that all elements of a value have, if that is known."""
    index = as_index(value) if value.dtype == "bool" else None
    return bool(index.expr) if index is not None and isinstance(index.expr, int) else None


def repr_attrs(attrs: dict[str, Any]) -> str:
    """Attributes as a key; sizes print in canonical form."""
    return repr(
        [
            (key, str(value) if not isinstance(value, tuple) else [str(v) for v in value])
            for key, value in sorted(attrs.items())
        ]
    )


def _symbolic(attrs: dict[str, Any]) -> bool:
    flat = [item for value in attrs.values() for item in (value if isinstance(value, tuple) else (value,))]
    return any(isinstance(item, sz.Size) for item in flat)


def _count(shape: Shape) -> int | None:
    total = sz.product(shape)
    return total if isinstance(total, int) else None


def _stored(array: np.ndarray) -> int:
    """The elements that an array holds in memory, broadcast ones once."""
    pairs = zip(array.shape, array.strides, strict=True)
    return math.prod(n for n, stride in pairs if stride)


def _source(values: Sequence[Constant]) -> str | None:
    """Where a folded constant comes from: the largest operand that is no mask, the first of several."""
    named = [value for value in values if value.source is not None]
    if not named:
        return None
    return max(named, key=lambda value: (value.array.size, not _is_mask(value.array))).source


def _is_mask(array: np.ndarray) -> bool:
    return array.dtype == np.bool_ or bool(((array == 0) | (array == 1)).all())
