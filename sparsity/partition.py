"""Which columns a block keeps and where its vectors end, from the non-zeros alone.

A kept column that no row of its block uses leaves no trace, and every later column of the block then seems
to stand one place too early. Level 2 still tells where the vectors end: a row never has more than n non-zeros
in a vector. `cut_vectors` thus lets each vector grow until it has v columns or a row would exceed n; that
takes the fewest vectors possible (every part of a sound vector is sound), and fills short vectors with unused
columns.
"""

from __future__ import annotations

import numpy as np

from espalier.sparsity.structure import ceil_div


def seen_columns(users: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """The used columns of each block in order, at most `limit` (the most used; of equal ones the first).

    users: int `[R, K]`, rows of each block that use a column. Returns (columns int64 `[R, S]`, counts int64
    `[R]`), S the largest count; past a block's count its unused columns follow in order.
    """
    total = users.shape[1]
    counts = np.minimum((users > 0).sum(axis=1), limit)
    if (counts < (users > 0).sum(axis=1)).any():
        rank = users * np.int64(total + 1) + np.arange(total, 0, -1)
        keep = np.argsort(-rank, axis=1)[:, :limit]
        mask = np.zeros(users.shape, bool)
        np.put_along_axis(mask, keep, True, axis=1)
        used = mask & (users > 0)
    else:
        used = users > 0
    order = np.argsort(~used, axis=1, kind="stable")
    return order, counts


def greedy_ends(support: np.ndarray, counts: np.ndarray, v: int, n: int, limit: int) -> np.ndarray:
    """Where each vector of each block ends when every vector is as long as it can be.

    support: bool `[R, H, S]`, rows (or unions of groups) over the used columns in order, False past `counts`.
    Returns int64 `[R, <= limit]`, the ends; a block is wholly cut where its last end equals its count.
    """
    blocks, height, width = support.shape
    sums = np.zeros((blocks, width + v + 1, height), np.int16 if width < 2**15 else np.int32)
    np.cumsum(support.transpose(0, 2, 1), axis=1, out=sums[:, 1 : width + 1])
    sums[:, width + 1 :] = sums[:, width : width + 1]
    ends = np.zeros((blocks, limit + 1), np.int64)
    every = np.arange(blocks)
    steps = np.arange(1, v + 1)
    for j in range(limit):
        start = ends[:, j]
        ahead = sums[every[:, None], start[:, None] + steps]  # [R, v, H]
        sound = ((ahead - sums[every, start][:, None, :]).max(axis=2) <= n).sum(axis=1)
        ends[:, j + 1] = np.minimum(start + np.maximum(sound, 1), counts)
        if (ends[:, j + 1] == counts).all():
            return ends[:, 1 : j + 2]
    return ends[:, 1:]


def group_unions(used: np.ndarray, g: int) -> np.ndarray:
    """bool `[R, B, K]` as the unions of g rows each, `[R, B / g, K]`."""
    if g == 1:
        return used
    blocks, height, total = used.shape
    return used.reshape(blocks, height // g, g, total).any(axis=2)


def cut_vectors(used: np.ndarray, users: np.ndarray, kc: int, v: int, n: int, g: int) -> np.ndarray:
    """The kept columns of each block in the order of its vectors, int64 `[R, kc]`.

    used: bool `[R, B, K]`. users: int `[R, K]`, its sum over rows. Rows with more non-zeros than
    all vectors hold have a weight outside the structure and no say in where vectors end.
    """
    blocks = len(users)
    columns, counts = seen_columns(users, kc)
    width = max(kc, int(counts.max()))
    plain = columns[:, :width]
    vectors = ceil_div(kc, v)
    unions = group_unions(used, g)
    support = np.take_along_axis(unions, plain[:, None, :], axis=2)
    support &= (np.arange(width) < counts[:, None])[:, None, :]
    capacity = int(np.minimum(np.minimum(v, kc - np.arange(0, kc, v)), n).sum())
    support &= (support.sum(axis=2) <= capacity)[:, :, None]
    padded = np.zeros((*support.shape[:2], vectors * v), bool)
    padded[:, :, :kc] = support
    heavy = padded.reshape(blocks, -1, vectors, v).sum(axis=3, dtype=np.int32).max(axis=(1, 2)) > n
    result = plain[:, :kc].copy()
    for r in np.flatnonzero(heavy & (counts < kc)):
        count = int(counts[r])
        ends = greedy_ends(support[r : r + 1, :, :count], counts[r : r + 1], v, n, vectors)[0]
        last_room = kc - (vectors - 1) * v
        short_last = len(ends) == vectors and count - (ends[-2] if vectors > 1 else 0) > last_room
        if ends[-1] < count or short_last:
            continue
        row = np.full(vectors * v, -1)
        start = 0
        for j, end in enumerate(ends):
            row[j * v : j * v + end - start] = columns[r, start:end]
            start = end
        row = row[:kc]
        row[row < 0] = columns[r, count : count + int((row < 0).sum())]
        result[r] = row
    return result
