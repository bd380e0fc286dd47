"""The vectors of bank-balanced HP: vector j holds the j-th kept column of every bank (column mod v).

A kept column that no row uses leaves no trace, and the later columns of its bank seem to stand one vector too
early. As a row never has more than n non-zeros in a vector, nor more than n for each vector still to come, a
search with backtracking finds which banks are empty in which vector.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np

TRIES = 2000  # choices that the search looks at in one block before it gives up


def banked_columns(unions: np.ndarray, users: np.ndarray, kc: int, v: int, n: int) -> np.ndarray:
    """The kept columns of each block vector by vector, int64 `[R, kc]`.

    unions: bool `[R, H, K]`, non-zeros of each group of rows. users: int `[R, K]`, rows that use a column.
    Each bank keeps its most used kc / v columns, unused ones stand where the search leaves a gap. Where one
    block defeats the search, the matrix is hardly of this structure, and the rest is laid out without it.
    """
    per_bank, sound = kc // v, True
    result = np.empty((len(users), per_bank, v), np.int64)
    for r in range(len(users)):
        banks = [most_used(users[r], bank, v, per_bank) for bank in range(v)]
        slots = fill_slots(unions[r], banks, per_bank, n) if sound else None
        if slots is None:
            sound, slots = False, [list(range(len(columns))) for columns in banks]
        for bank, (columns, taken) in enumerate(zip(banks, slots, strict=True)):
            unused = np.flatnonzero(users[r, bank::v] == 0) * v + bank
            line = np.full(per_bank, -1)
            line[taken] = columns
            line[line < 0] = unused[: per_bank - len(columns)]
            result[r, :, bank] = line
    return result.reshape(len(users), kc)


def most_used(users: np.ndarray, bank: int, v: int, limit: int) -> np.ndarray:
    """Used columns of a bank in order, at most `limit`: the most used, of equal ones the first."""
    counts = users[bank::v]
    kept = np.argsort(-counts, kind="stable")[:limit]
    return np.sort(kept[counts[kept] > 0]) * v + bank


def fill_slots(unions: np.ndarray, banks: list[np.ndarray], per_bank: int, n: int) -> list[list[int]] | None:
    """The vector of each used column, a list for each bank; None where the search finds none."""
    if all(len(columns) == per_bank for columns in banks):
        return [list(range(per_bank))] * len(banks)
    every = np.concatenate(banks).astype(np.int64)
    left = unions[:, every].sum(axis=1) if every.size else np.zeros(len(unions), np.int64)
    trusted = left <= per_bank * n
    rows, left = unions[trusted].astype(np.int64), left[trusted]
    tries = 0  # of choices

    def search(vector: int, at: tuple[int, ...], left: np.ndarray) -> list[tuple[int, ...]] | None:
        """Which banks have a column in each vector from this one on."""
        nonlocal tries
        if vector == per_bank:
            return []
        open_banks = [j for j, columns in enumerate(banks) if at[j] < len(columns)]
        may_skip = [j for j in open_banks if len(banks[j]) - at[j] < per_bank - vector]
        for count in range(len(may_skip) + 1):
            for skipped in combinations(may_skip, count):
                tries += 1
                if tries > TRIES:
                    return None
                taken = tuple(j for j in open_banks if j not in skipped)
                here = rows[:, [banks[j][at[j]] for j in taken]].sum(axis=1)
                rest = left - here
                if (here > n).any() or (rest > (per_bank - vector - 1) * n).any():
                    continue
                after = tuple(i + (j in taken) for j, i in enumerate(at))
                found = search(vector + 1, after, rest)
                if found is not None:
                    return [taken, *found]
        return None

    found = search(0, (0,) * len(banks), left)
    if found is None:
        return None
    return [[vector for vector, taken in enumerate(found) if j in taken] for j in range(len(banks))]
