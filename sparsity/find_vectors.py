"""Finds HP and N:M: the length of vectors, what they keep, and for how many rows at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from espalier.sparsity.evidence import Evidence
from espalier.sparsity.heights import heights, trusted
from espalier.sparsity.hierarchical import HP, NM, in_blocks, level2_bits
from espalier.sparsity.partition import greedy_ends, group_unions, seen_columns
from espalier.sparsity.structure import ceil_div, index_bits

LENGTHS = (2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 20, 24, 32, 48, 64)


def find_nm(evidence: Evidence, best: int) -> Iterator[NM]:
    """For each vector length the n with the fewest bits, then the largest g that holds for it."""
    rows, columns = evidence.shape
    found = []
    for v in LENGTHS:
        if v >= columns or evidence.count * evidence.width >= best:
            break
        counts = np.bincount(vector_counts(evidence.used, v).reshape(-1), minlength=v + 1)
        outside = [int((counts * np.maximum(np.arange(len(counts)) - n, 0)).sum()) for n in range(v + 1)]
        for n in range(1, v):
            if outside[n] <= evidence.stray_limit:
                bits = level2_bits(rows, rows, columns, n, v, evidence.width)
                found.append((bits + outside[n] * evidence.stray_bits, v, n))
                break
    for _, v, n in sorted(found)[:2]:
        yield NM(n, v, shared_rows(evidence, v, n))


def vector_counts(used: np.ndarray, v: int) -> np.ndarray:
    """Non-zeros of each vector of v columns, `[N, ceil(K / v)]`; the last may be short."""
    return np.add.reduceat(used, np.arange(0, used.shape[1], v), axis=1, dtype=np.uint8)


def shared_rows(evidence: Evidence, v: int, n: int) -> int:
    """The largest g whose groups together stay within n, but for a few weights outside."""
    limit = evidence.stray_limit
    for g in range(min(evidence.shape[0], 64), 1, -1):
        head = evidence.used[: 8 * g]
        if excess(head, g, v, n) <= limit and excess(evidence.used, g, v, n) <= limit:
            return g
    return 1


def excess(used: np.ndarray, g: int, v: int, n: int) -> int:
    unions = np.logical_or.reduceat(used, np.arange(0, len(used), g), axis=0)
    return int(np.maximum(vector_counts(unions, v).astype(np.int32) - n, 0).sum())


@dataclass(frozen=True)
class Guess:
    """A hypothesis about level 2 with its bits."""

    bits: int
    v: int
    n: int
    g: int
    vectors: int


def find_hp(evidence: Evidence, best: int) -> Iterator[HP]:
    """HP for each likely height, from the tallest; `best` bits are to be beaten."""
    rows, columns = evidence.shape
    for part in trusted(evidence):
        most = int(part.row_counts.max(initial=0))
        for height in heights(part):
            seen = int(part.seen(height).max(initial=0))
            least = ceil_div(rows, height) * seen * index_bits(columns) + rows * most * evidence.width
            if most == 0 or least >= best:
                continue
            for guess in level2(part, height, best):
                best = min(best, guess.bits)
                yield HP(height, min(guess.vectors * guess.v, columns), guess.v, guess.n, guess.g)


def level2(evidence: Evidence, height: int, best: int) -> list[Guess]:
    """The most likely vectors for blocks of this height, by probing the fullest blocks."""
    used = in_blocks(evidence.used, height)
    users = used.sum(axis=1, dtype=np.int32)
    columns, counts = seen_columns(users, evidence.shape[1])
    probe = np.argsort(-counts, kind="stable")[:4]
    support = compact(used[probe], columns[probe], counts[probe])
    guesses = [
        guess
        for v in LENGTHS
        if v < counts.max()
        for guess in probe_length(evidence, height, support, counts[probe], v, best)
    ]
    if not guesses:
        return []
    first = min(guesses, key=lambda guess: (guess.bits, guess.v))
    whole = compact(used, columns, counts)
    result = []
    for g in (g for g in range(height, 0, -1) if height % g == 0):
        unions = group_unions(whole, g)
        capacity = first.vectors * first.n
        if np.quantile(unions.sum(axis=2), 0.9) > capacity * 1.02 + 1:
            continue
        ends = greedy_ends(unions, counts, first.v, first.n, first.vectors)
        done = ends[:, -1] == counts
        if done.mean() < 0.9:
            continue
        vectors = int((ends < counts[:, None]).sum(axis=1)[done].max(initial=0)) + 1
        bits = total_bits(evidence, height, first.v, first.n, g, vectors)
        result.append(Guess(bits, first.v, first.n, g, vectors))
        break
    return result


def compact(used: np.ndarray, columns: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The used columns of each block side by side, bool `[R, B, S]`."""
    width = int(counts.max(initial=0))
    support = np.take_along_axis(used, columns[:, None, :width], axis=2)
    return support & (np.arange(width) < counts[:, None])[:, None, :]


def total_bits(evidence: Evidence, height: int, v: int, n: int, g: int, vectors: int) -> int:
    rows, columns = evidence.shape
    kc = min(vectors * v, columns)
    lists = ceil_div(rows, height) * kc * index_bits(columns)
    return lists + level2_bits(rows, ceil_div(rows, g), kc, n, v, evidence.width)


def probe_length(
    evidence: Evidence, height: int, support: np.ndarray, counts: np.ndarray, v: int, best: int
) -> list[Guess]:
    """Guesses for one vector length: n about the share of its columns that the fullest row uses."""
    most = int(support.sum(axis=2).max())
    share = ceil_div(v * most, int(counts.max()))
    guesses = []
    for n in (share - 1, share, share + 1):
        if not 1 <= n < v:
            continue
        limit = ceil_div(evidence.shape[1], v)
        ends = greedy_ends(support, counts, v, n, limit)
        if (ends[:, -1] < counts).any():
            continue
        vectors = ends.shape[1]
        bits = total_bits(evidence, height, v, n, 1, vectors)
        if bits - (evidence.shape[0] * vectors * v) < best:
            guesses.append(Guess(bits, v, n, 1, vectors))
    return guesses
