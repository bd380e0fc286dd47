"""Which columns a block keeps and where its vectors end, from the non-zeros alone.

A kept column that no row of its block uses leaves no trace, and every later column of the block then seems
to stand one place too early. Level 2 still tells where the vectors end: a row never has more than n non-zeros
in a vector. So each vector is let grow until it has v columns or a row would exceed n; that takes the fewest
vectors possible (every part of a sound vector is sound). Short vectors are filled with unused columns.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from espalier.sparsity.structure import ceil_div


def seen_columns(users: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """The used columns of each block in order, at most `limit` (the most used; of equal ones the first).

    users: int `[R, K]`, rows of each block that use a column. Returns (columns int64 `[R, K]`, counts int64
    `[R]`); past a block's count its other columns follow in order.
    """
    used = users > 0
    counts = used.sum(axis=1)
    over = np.flatnonzero(counts > limit)
    if over.size:
        drop = np.argsort(-users[over], axis=1, kind="stable")[:, limit:]
        kept = used[over]
        np.put_along_axis(kept, drop, False, axis=1)
        used[over] = kept
        counts = np.minimum(counts, limit)
    return np.argsort(~used, axis=1, kind="stable"), counts


def group_unions(used: np.ndarray, g: int) -> np.ndarray:
    """bool `[R, B, K]` as the unions of g rows each, `[R, B / g, K]`."""
    if g == 1:
        return used
    blocks, height, total = used.shape
    return np.logical_or.reduce(used.reshape(blocks, height // g, g, total), axis=2)


def reach(support: np.ndarray, n: int) -> np.ndarray:
    """How far a vector that starts at each column may go before a row has more than n non-zeros in it.

    support: bool `[R, H, S]`, rows over the used columns in order. Returns int `[R, S + 1]`, S for no limit.
    """
    blocks, height, width = support.shape
    place = np.flatnonzero(support)
    line, column = np.divmod(place, width)
    same = line[n:] == line[: len(line) - n]
    start = (line // height * (width + 1) + column)[: len(same)]
    far = np.full(blocks * (width + 1), width)
    np.minimum.at(far, start[same], column[n:][same])
    far = far.reshape(blocks, width + 1)
    return np.minimum.accumulate(far[:, ::-1], axis=1)[:, ::-1]


def walk(far: np.ndarray, counts: np.ndarray, v: int) -> list[list[int]]:
    """The ends of the vectors of each block as a list each, when every vector goes as far as it may."""
    furthest = np.minimum(np.minimum(far, np.arange(far.shape[1]) + v), counts[:, None])
    result = []
    for limits, count in zip(furthest.tolist(), counts.tolist(), strict=True):
        at, ends = 0, []
        while at < count:
            at = limits[at]
            ends.append(at)
        result.append(ends)
    return result


def compact(used: np.ndarray, columns: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The used columns of each block side by side: bool `[R, H, S]`, S the largest count."""
    width = int(counts.max(initial=0))
    support = np.take_along_axis(used, columns[:, None, :width], axis=2)
    support &= (np.arange(width) < counts[:, None])[:, None, :]
    return support


def cut_vectors(used: np.ndarray, users: np.ndarray, kc: int, v: int, n: int, g: int) -> np.ndarray:
    """The kept columns of each block in the order of its vectors, int64 `[R, kc]`.

    used: bool `[R, B, K]`. users: int `[R, K]`, its sum over rows. Rows with more non-zeros than all vectors
    hold have a weight outside the structure and no say in where vectors end.
    """
    columns, counts = seen_columns(users, kc)
    result = columns[:, :kc].copy()
    gaps = np.flatnonzero(counts < kc)  # a block whose kept columns are all seen is cut by counting
    if not gaps.size:
        return result
    vectors = ceil_div(kc, v)
    room = kc - (vectors - 1) * v  # columns of the last vector
    support = compact(group_unions(used[gaps], g), columns[gaps], counts[gaps])
    capacity = (vectors - 1) * min(n, v) + min(n, room)
    support &= (support.sum(axis=2) <= capacity)[:, :, None]
    ends = walk(reach(support, n), counts[gaps], v)
    for r, end in zip(gaps, ends, strict=True):
        count = int(counts[r])
        if len(end) > vectors or (len(end) == vectors and end[-1] - ([0, *end])[-2] > room):
            continue
        row = np.full(vectors * v, -1)
        for j, (start, stop) in enumerate(pairwise([0, *end])):
            row[j * v : j * v + stop - start] = columns[r, start:stop]
        row = row[:kc]
        row[row < 0] = columns[r, count:kc]
        result[r] = row
    return result
