"""The constants of the kernels over tiles, in the order of TileShape."""

from __future__ import annotations

import numpy as np

from espalier.schedules.x86.column_lists import uniform_lists
from espalier.schedules.x86.tile_shape import TileShape
from espalier.sparsity import Packed


def pack(shape: TileShape, packed: Packed) -> tuple[np.ndarray, ...]:
    """The arrays that the kernel reads, in the order of its parameters."""
    if shape.lists == "empty":
        return ()
    if shape.sorted:
        return _ragged_rows(shape, packed.unpack().astype(np.float32))
    if shape.ragged:
        return _ragged_groups(shape, packed.unpack().astype(np.float32))
    if shape.lists == "none":
        weights = _padded(packed.unpack(), shape.chunks * shape.count)
        return (_by_group(shape, weights),)
    columns, values = uniform_lists(packed)
    columns = _padded(columns, shape.chunks * shape.count, mode="edge")
    values = _padded(values, shape.chunks * shape.count)
    if shape.lists == "row":
        return _words(_by_row(shape, columns)), _by_row(shape, values).astype(np.float32)
    lists = _rows(shape, columns, mode="edge")
    if shape.lists == "block":
        index = lists[:, 0].reshape(shape.index_shape)
    else:
        first = lists[:, :: shape.rows].reshape(shape.blocks, shape.groups, shape.chunks, shape.count)
        index = first.transpose(0, 2, 1, 3)
    return np.ascontiguousarray(index).astype(np.uint16), _by_group(shape, values)


def _padded(lists: np.ndarray, count: int, mode: str = "constant") -> np.ndarray:
    """`[N, count]`: more entries, zero or copies of the last one."""
    return np.pad(lists, ((0, 0), (0, count - lists.shape[1])), mode=mode)  # type: ignore[call-overload]


def _rows(shape: TileShape, lists: np.ndarray, mode: str = "constant") -> np.ndarray:
    """`[blocks, groups * rows, count]`: rows appended at the end and in every block."""
    whole = np.pad(lists, ((0, shape.blocks * shape.height - shape.n), (0, 0)), mode=mode)  # type: ignore[call-overload]
    blocks = whole.reshape(shape.blocks, shape.height, -1)
    return np.pad(blocks, ((0, 0), (0, shape.groups * shape.rows - shape.height), (0, 0)), mode=mode)  # type: ignore[call-overload]


def _by_group(shape: TileShape, values: np.ndarray) -> np.ndarray:
    """`[N, chunks * count]` as f32 `[blocks, chunks, groups, count, rows]`."""
    cut = _rows(shape, values).reshape(shape.blocks, shape.groups, shape.rows, shape.chunks, shape.count)
    return np.ascontiguousarray(cut.transpose(0, 3, 1, 4, 2)).astype(np.float32)


def _by_row(shape: TileShape, lists: np.ndarray) -> np.ndarray:
    """`[N, chunks * count]` as `[blocks, chunks, groups, count / 4, rows, 4]`."""
    cut = _rows(shape, lists).reshape(shape.blocks, shape.groups, shape.rows, shape.chunks, shape.steps, 4)
    return np.ascontiguousarray(cut.transpose(0, 3, 1, 4, 2, 5))


def _words(columns: np.ndarray) -> np.ndarray:
    """Four columns in a word, the first in the low bits."""
    return np.ascontiguousarray(columns).astype("<u2").view("<u8")[..., 0]


def _ragged_groups(shape: TileShape, matrix: np.ndarray) -> tuple[np.ndarray, ...]:
    """P, I, W where the rows of a group have one list: the union of theirs."""
    padded = _rows(shape, _padded(matrix, shape.chunks * shape.width))
    cut = padded.reshape(shape.blocks, shape.groups, shape.rows, shape.chunks, shape.width)
    pieces = cut.transpose(0, 3, 1, 2, 4).reshape(shape.pieces, shape.rows, shape.width)
    start = np.tile(np.repeat(np.arange(shape.chunks) * shape.width, shape.groups), shape.blocks)
    piece, column = np.nonzero((pieces != 0).any(axis=1))
    index = (column + start[piece]).astype(np.uint16)
    pointers = np.searchsorted(piece, np.arange(shape.pieces + 1))
    return pointers.astype(np.int32), index, np.ascontiguousarray(pieces[piece, :, column])


def _ragged_rows(shape: TileShape, matrix: np.ndarray) -> tuple[np.ndarray, ...]:
    """P, I, W, O where every row has its own list.

    A row's list is cut at whole steps of four entries, as near to the chunks' edges as that allows, so that
    only its last step is padded.
    """
    height = shape.groups * shape.rows
    padded = _rows(shape, matrix).reshape(-1, shape.k)
    row, column = np.nonzero(padded)
    first = np.searchsorted(row, np.arange(len(padded) + 1))
    edges = np.minimum(np.arange(1, shape.chunks + 1) * shape.width, shape.k)
    flat = row * shape.k + column
    before = np.searchsorted(flat, np.arange(len(padded))[:, None] * shape.k + edges) - first[:-1, None]
    ends = before // 4
    ends[:, -1] = -(-before[:, -1] // 4)
    steps = np.diff(ends, axis=1, prepend=0).reshape(shape.blocks, height, shape.chunks)
    order = np.argsort(-steps, axis=1, kind="stable").transpose(0, 2, 1)
    longest = np.take_along_axis(steps.transpose(0, 2, 1), order, axis=2)[..., :: shape.rows]
    pointers = np.concatenate([[0], np.cumsum(longest.reshape(-1))])
    # where each row stands in each chunk: rank in the block, then group and place
    rank = np.argsort(order, axis=2).transpose(0, 2, 1).reshape(-1, shape.chunks)
    number = np.arange(row.size) - first[row]
    chunk = (number[:, None] // 4 >= ends[row]).sum(axis=1)
    step = number // 4 - np.where(chunk > 0, ends[row, chunk - 1], 0)
    group, place = np.divmod(rank[row, chunk], shape.rows)
    piece = (row // height * shape.chunks + chunk) * shape.groups + group
    index = np.zeros((pointers[-1], shape.rows, 4), np.uint16)
    weights = np.zeros((pointers[-1], shape.rows, 4), np.float32)
    start = np.tile(np.repeat(edges - shape.width, shape.groups), shape.blocks)
    index[:] = np.maximum(np.repeat(start, longest.reshape(-1)), 0)[:, None, None]
    at = (pointers[piece] + step, place, number % 4)
    index[at] = column
    weights[at] = padded[row, column]
    rows = order + np.arange(shape.blocks)[:, None, None] * shape.height
    return pointers.astype(np.int32), _words(index), weights, rows.reshape(-1, shape.rows).astype(np.int32)
