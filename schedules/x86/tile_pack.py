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
    if shape.ragged:
        return _ragged(shape, packed.unpack().astype(np.float32))
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


def _ragged(shape: TileShape, matrix: np.ndarray) -> tuple[np.ndarray, ...]:
    """P, I, W. A group of rows is as long as its longest row (lists "row") or the union of its rows."""
    padded = _rows(shape, _padded(matrix, shape.chunks * shape.width))
    cut = padded.reshape(shape.blocks, shape.groups, shape.rows, shape.chunks, shape.width)
    pieces = cut.transpose(0, 3, 1, 2, 4).reshape(shape.pieces, shape.rows, shape.width)
    start = np.tile(np.repeat(np.arange(shape.chunks) * shape.width, shape.groups), shape.blocks)
    kept = pieces != 0
    if shape.lists == "group":
        piece, column = np.nonzero(kept.any(axis=1))
        index = (column + start[piece]).astype(np.uint16)
        pointers = np.searchsorted(piece, np.arange(shape.pieces + 1))
        return pointers.astype(np.int32), index, np.ascontiguousarray(pieces[piece, :, column])
    steps = -(-kept.sum(axis=2).max(axis=1) // 4)
    pointers = np.concatenate([[0], np.cumsum(steps)])
    index = np.zeros((pointers[-1], shape.rows, 4), np.uint16)
    weights = np.zeros((pointers[-1], shape.rows, 4), np.float32)
    piece, row, column = np.nonzero(kept)
    # the place of an entry in its row: how many came before it
    line = piece * shape.rows + row
    place = np.arange(line.size) - np.searchsorted(line, line)
    step = pointers[piece] + place // 4
    index[:] = np.repeat(start, steps)[:, None, None]
    index[step, row, place % 4] = column + start[piece]
    weights[step, row, place % 4] = pieces[piece, row, column]
    return pointers.astype(np.int32), _words(index), weights
