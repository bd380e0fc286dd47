"""Weights as integers, and the constants of the int8 kernels in the order of Int8Shape.

A layer computes `Scale[n] * s * (sum of x W - z * sum of W)`, where x are the integers of the activations
and s, z their scale and zero point. Static ones are folded: Scale holds s too, and Offset holds -z times the
row's sum; else Offset holds the sum.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from espalier.schedules.linear import Quantization
from espalier.schedules.x86.column_lists import uniform_lists
from espalier.schedules.x86.int8_dot import SUM_BITS, Dot
from espalier.schedules.x86.int8_shape import Int8Shape
from espalier.sparsity import Packed, PackedHP

SHRINK = 1.002
"""Factor on a row's scale at a time until no sum of s16 can overflow."""
EXACT = 2e-6
"""How near to a multiple of its scale a weight must be to be taken for an integer, relative to itself."""


def pack(shape: Int8Shape, packed: Packed, quantization: Quantization) -> tuple[np.ndarray, ...]:
    """The arrays that the kernel reads, in the order of its parameters."""
    columns, values = _lists(shape, packed)
    values = evened(shape, columns, values, quantization.factors)
    codes, scale = _codes(shape, values, quantization.given)
    total = codes.sum(axis=1, dtype=np.int64)
    if quantization.mode == "static":
        scale = scale * np.float32(quantization.scale)
        total = -quantization.zero * total
    index = () if shape.dense else (columns.astype("<u2").view(f"<u{2 * shape.dot.columns}"),)
    return *index, _words(shape, codes), scale.astype(np.float32), total.astype(np.int32)


def evened(shape: Int8Shape, columns: np.ndarray, values: np.ndarray, factors: Sequence[float]) -> np.ndarray:
    """Values `[N, entries]` divided by the factors of their features; those with factor 0 are 0."""
    if not factors:
        return values
    inverse = np.zeros(shape.k, np.float32)
    each = np.asarray(factors, np.float32)
    np.divide(1, each, out=inverse, where=each > 0)
    if shape.dense:
        return values * np.pad(inverse, (0, values.shape[1] - shape.k))
    return values * inverse[columns[np.arange(shape.n) // shape.height]]


def quantized_matrix(
    shape: Int8Shape, packed: Packed, quantization: Quantization
) -> tuple[np.ndarray, np.ndarray]:
    """(codes int32 `[N, K]`, scale f32 `[N]`): the integers that the kernel multiplies with."""
    columns, values = _lists(shape, packed)
    values = evened(shape, columns, values, quantization.factors)
    codes, scale = _codes(shape, values, quantization.given)
    if shape.dense:
        return codes[:, : shape.k], scale
    matrix = np.zeros((shape.n, shape.k), np.int32)
    rows = np.arange(shape.n)
    np.add.at(matrix, (rows[:, None], columns[rows // shape.height]), codes)
    return matrix, scale


def _codes(shape: Int8Shape, values: np.ndarray, given: bool) -> tuple[np.ndarray, np.ndarray]:
    if not given:
        return quantized(values, shape.dot)
    found = integers(values)
    if found is None or np.abs(found[0]).max(initial=0) > shape.dot.largest:
        raise ValueError(f"the weight is no multiple of integers up to {shape.dot.largest}")
    return found


def quantized(values: np.ndarray, dot: Dot) -> tuple[np.ndarray, np.ndarray]:
    """(codes int32, scale f32 `[N]`) of f32 weights `[N, entries]`, symmetric, one scale a row.

    For chains of s16 sums the scale is so large that no sum overflows, whatever the activations are.
    """
    values = values.astype(np.float64)
    scale = np.abs(values).max(axis=1, initial=0.0) / dot.largest
    # in f32 from here on, as the kernel has it
    scale = np.where(scale > 0, scale, 1.0).astype(np.float32).astype(np.float64)
    codes = np.rint(values / scale[:, None])
    limit = ((1 << SUM_BITS) - 1) // dot.levels
    while dot.form == "chain":
        worst = chain_sums(codes, dot).max(axis=1, initial=0.0)
        over = worst > limit
        if not over.any():
            break
        factor = np.where(over, np.maximum(worst / limit, SHRINK), 1.0)
        scale = (scale * factor).astype(np.float32).astype(np.float64)
        codes = np.rint(values / scale[:, None])
    largest = dot.largest
    return np.clip(codes, -largest, largest).astype(np.int32), scale.astype(np.float32)


def chain_sums(codes: np.ndarray, dot: Dot) -> np.ndarray:
    """`[N, sums]`: the sums in s16 of the positive and of the negative weights, for activations of 1."""
    width = dot.columns * dot.chain
    padded = np.pad(codes, ((0, 0), (0, -codes.shape[1] % width)))
    pairs = padded.reshape(len(codes), -1, dot.chain, dot.columns // 2, 2)
    both = [np.maximum(sign * pairs, 0).sum(axis=(2, 4)).reshape(len(codes), -1) for sign in (1, -1)]
    return np.concatenate(both, axis=1)


def integers(values: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """(codes int32, scale f32 `[N]`) with `codes * scale == values` to f32's precision, codes of 9 bits.

    None where there are none. The scale is the same for all rows where one fits all.
    """
    whole = _integers(values.reshape(1, -1))
    if whole is not None:
        return whole[0].reshape(values.shape), np.repeat(whole[1], len(values))
    return _integers(values)


def _integers(values: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """One scale a row of `values`: a divisor of the least weight that divides all others."""
    sizes = np.abs(values.astype(np.float64))
    largest = sizes.max(axis=1, initial=0.0)
    least = np.where(sizes > 0, sizes, np.inf).min(axis=1, initial=np.inf)
    least = np.where(largest > 0, least, 1.0)
    scale = np.zeros(len(values))
    left = np.arange(len(values))
    for divisor in range(1, 256):
        unit = least[left] / divisor
        ratio = sizes[left] / unit[:, None]
        fits = (np.abs(ratio - np.rint(ratio)) <= EXACT * np.maximum(ratio, 1)).all(axis=1)
        fits &= largest[left] / unit < 255.5
        # the largest weight tells the scale best
        best = largest[left] / np.maximum(np.rint(largest[left] / unit), 1)
        scale[left[fits]] = np.where(largest[left] > 0, best, 1.0)[fits]
        left = left[~fits & (largest[left] / unit < 255.5)]
        if not left.size:
            break
    if (scale == 0).any():
        return None
    codes = np.rint(values / scale[:, None])
    return codes.astype(np.int32), scale.astype(np.float32)


def _lists(shape: Int8Shape, packed: Packed) -> tuple[np.ndarray, np.ndarray]:
    """(columns `[all lists, steps * columns of a step]`, values `[N, the same]`)."""
    width = shape.steps * shape.dot.columns
    if shape.dense:
        values = packed.unpack()
        columns = np.empty((shape.all_lists, 0), np.int64)
    elif shape.masked:
        assert isinstance(packed, PackedHP)
        columns = packed.columns.astype(np.int64)
        rows = np.arange(shape.n) // shape.height
        values = np.take_along_axis(packed.unpack(), columns[rows], axis=1)
        # a column that stands twice in a list counts once
        first = np.array(
            [np.isin(np.arange(row.size), np.unique(row, return_index=True)[1]) for row in columns]
        )
        values = np.where(first[rows], values, 0)
    else:
        columns, values = uniform_lists(packed)
        columns = columns[:: shape.height]
    values = np.pad(values, ((0, 0), (0, width - values.shape[1])))
    if not shape.dense:
        columns = np.pad(columns, ((0, 0), (0, width - columns.shape[1])), mode="edge")
    return columns, values.astype(np.float32)


def _words(shape: Int8Shape, codes: np.ndarray) -> np.ndarray:
    """Codes `[N, entries]` as W."""
    dot = shape.dot
    height = shape.groups * shape.rows
    whole = np.pad(codes, ((0, shape.all_lists * shape.height - shape.n), (0, 0)))
    lists = whole.reshape(shape.all_lists, shape.height, -1)
    lists = np.pad(lists, ((0, 0), (0, height - shape.height), (0, 0)))
    cut = lists.reshape(shape.all_lists, shape.groups, shape.rows, shape.steps, dot.columns)
    cut = np.ascontiguousarray(cut.transpose(0, 1, 3, 2, 4))
    return cut.astype(np.dtype(dot.weight_type).newbyteorder("<")).view("<i4")[..., 0]
