"""Where the kept columns of BP + PP stand when some of a block are used by no row.

PP is laid over the kept columns side by side. A kept column whose cells are empty in every pattern that meets
it leaves no trace, and all later columns of its block seem to stand one place too early. With the patterns
known from blocks without gaps, a search with backtracking places the others: a column goes where every part
of the block still has a pattern that covers it, a place stays free where every part has one that is empty
there.
"""

from __future__ import annotations

import numpy as np

TRIES = 6  # steps of the search for each kept column before it gives up


def sound_strips(broken: np.ndarray, p: int) -> np.ndarray:
    """The strips of p whole rows of which none is broken, ascending, int64. broken: bool `[N]`."""
    return np.flatnonzero(~broken[: len(broken) // p * p].reshape(-1, p).any(axis=1))


def align(
    used: np.ndarray, columns: np.ndarray, counts: np.ndarray, patterns: np.ndarray, height: int
) -> np.ndarray:
    """The kept columns of each block at their places, int64 `[R, kc]`, unused ones where the places are free.

    used: bool `[N, K]`. columns: int `[R, kc]`, the used columns of each block in order, then others; counts:
    how many are used. patterns: bool `[m, p, p]`. A block that the search does not solve stays as it is.
    """
    result = columns.copy()
    for r in np.flatnonzero(counts < columns.shape[1]):
        block = used[r * height : (r + 1) * height, columns[r, : counts[r]]]
        places = place(block, patterns, columns.shape[1], int(r) * height)
        if places is None:
            continue
        line = np.full(columns.shape[1], -1)
        line[places] = columns[r, : counts[r]]
        line[line < 0] = columns[r, counts[r] :]
        result[r] = line
    return result


def place(block: np.ndarray, patterns: np.ndarray, kc: int, first: int) -> list[int] | None:
    """The place of each column of `block` (bool `[rows, columns]`), whose first row is row `first`."""
    m, p, _ = patterns.shape
    parts = np.split(np.arange(len(block)), np.arange(p - first % p, len(block), p))
    fits, empty = [], []  # per part: [m, p, columns] a pattern's column covers a column; [m, p] it is empty
    for part in parts:
        cells = patterns[:, (first + part) % p]
        outside = np.einsum("mrp,rc->mpc", (~cells).astype(np.float32), block[part].astype(np.float32))
        fits.append(outside == 0)
        empty.append(~cells.any(axis=1))
    covers, blank = np.stack(fits), np.stack(empty)
    total = block.shape[1]
    everything = np.ones((len(parts), m), bool)
    stack: list[tuple[int, int, np.ndarray, tuple]] = [(0, 0, everything, ())]
    for _ in range(TRIES * kc):
        if not stack:
            return None
        at, column, possible, places = stack.pop()
        if at == kc:
            return list(unlinked(places))
        if at % p == 0:
            possible = everything
        if total - column < kc - at:
            skipped = possible & blank[:, :, at % p]
            if skipped.any(axis=1).all():
                stack.append((at + 1, column, skipped, places))
        if column < total:
            taken = possible & covers[:, :, at % p, column]
            if taken.any(axis=1).all():
                stack.append((at + 1, column + 1, taken, (places, at)))
    return None


def unlinked(places: tuple) -> list[int]:
    """The places of a chain (..., last but one), last in order."""
    result = []
    while places:
        places, last = places
        result.append(last)
    return result[::-1]
