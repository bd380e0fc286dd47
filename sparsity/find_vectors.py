"""Finds HP and N:M: the length of vectors, what they keep, and for how many rows at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from espalier.sparsity.evidence import Evidence
from espalier.sparsity.heights import heights
from espalier.sparsity.hierarchical import HP, NM, in_blocks, level2_bits
from espalier.sparsity.partition import compact, group_unions, reach, seen_columns, walk
from espalier.sparsity.structure import ceil_div, index_bits

LENGTHS = (2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 15, 16, 18, 20, 24, 28, 32, 40, 48, 56, 64)


def find_nm(evidence: Evidence, best: int) -> Iterator[NM]:
    """For each vector length the n with the fewest bits, then the largest g that holds for it."""
    rows, columns = evidence.shape
    found = []
    for v in LENGTHS:
        if v >= columns:
            break
        least = ceil_div(evidence.count - evidence.stray_limit, rows * ceil_div(columns, v))
        if level2_bits(rows, 0, columns, least, v, evidence.width) >= best:
            continue
        counts = np.bincount(evidence.vector_counts(v).reshape(-1), minlength=v + 1)
        for n in range(least, v):
            outside = int((counts[n + 1 :] * np.arange(1, v - n + 1)).sum())
            if outside <= evidence.stray_limit:
                bits = level2_bits(rows, rows, columns, n, v, evidence.width) + outside * evidence.stray_bits
                zeros = NM(n, v).kept_count(evidence.shape) + outside - evidence.count
                free = zeros * evidence.width if 8 * zeros <= evidence.count else 0
                found.append((bits - free, v, n))
    for _, v, n in sorted(found)[:2]:
        yield NM(n, v, shared_rows(evidence, v, n))


def shared_rows(evidence: Evidence, v: int, n: int) -> int:
    """The largest g whose groups together stay within n, but for a few weights outside."""
    for g in evidence.periods(min(evidence.shape[0], 64)):
        unions = np.logical_or.reduceat(evidence.used, np.arange(0, len(evidence.used), g), axis=0)
        counts = Evidence(unions, evidence.width).vector_counts(v).astype(np.int32)
        if np.maximum(counts - n, 0).sum() <= evidence.stray_limit:
            return g
    return 1


@dataclass(frozen=True)
class Guess:
    """A hypothesis about level 2 with its bits."""

    bits: int
    v: int
    n: int
    g: int
    vectors: int


def find_hp(evidence: Evidence, best: int) -> Iterator[HP]:
    """HP for each likely height, from the tallest; `best` bits are to be beaten. With kc = K it is N:M."""
    rows, columns = evidence.shape
    for part in evidence.trusted:
        most = int(part.row_counts.max())
        for height in heights(part):
            shared = part.periods(min(height, 64))[0]
            seen = int(part.seen(height).max())
            lists = ceil_div(rows, height) * seen * index_bits(columns)
            least = lists + rows * most * evidence.width + ceil_div(rows, shared) * most
            if seen in (0, columns) or least >= best:
                continue
            for guess in level2(part, height, best):
                best = min(best, guess.bits)
                yield HP(height, min(guess.vectors * guess.v, columns), guess.v, guess.n, guess.g)


def level2(evidence: Evidence, height: int, best: int) -> list[Guess]:
    """The most likely vectors for blocks of this height: probed on the fullest blocks, then cut in all."""
    used = in_blocks(evidence.used, height)
    users = used.sum(axis=1, dtype=np.int32)
    columns, counts = seen_columns(users, evidence.shape[1])
    probe = np.argsort(-counts, kind="stable")[:4]
    support = compact(used[probe, :128], columns[probe], counts[probe])
    guesses = probe_lengths(evidence, height, support, counts[probe])
    if not guesses:
        return []
    first = min(guesses, key=lambda guess: (guess.bits, guess.v))
    if first.bits - evidence.shape[0] * first.vectors * first.v >= best:
        return []
    whole = compact(used, columns, counts)
    result = []
    for g in (g for g in evidence.periods(min(height, 64)) if height % g == 0):
        unions = group_unions(whole, g)
        ends = walk(reach(unions, first.n), counts, first.v)
        vectors = np.array([len(end) for end in ends])
        usual = int(np.bincount(vectors).argmax())
        if usual > 1.1 * first.vectors and g > 1:
            continue
        for count in {usual, int(vectors.max())}:
            bits = total_bits(evidence, height, first.v, first.n, g, count)
            result.append(Guess(bits, first.v, first.n, g, count))
        break
    return result


def probe_lengths(evidence: Evidence, height: int, support: np.ndarray, counts: np.ndarray) -> list[Guess]:
    """Guesses for each vector length: n about the share of its columns that the fullest row uses."""
    most = int(support.sum(axis=2).max())
    seen = int(counts.max())
    far: dict[int, np.ndarray] = {}
    guesses = []
    for v in LENGTHS:
        if v > evidence.shape[1] or (v > seen and any(guess.v >= seen for guess in guesses)):
            break
        share = ceil_div(v * most, seen)
        for n in range(max(share - 1, 1), min(share + 2, v)):
            if n not in far:
                far[n] = reach(support, n)
            vectors = max(len(ends) for ends in walk(far[n], counts, v))
            if vectors * v < evidence.shape[1] + v:
                guesses.append(Guess(total_bits(evidence, height, v, n, 1, vectors), v, n, 1, vectors))
    return guesses


def total_bits(evidence: Evidence, height: int, v: int, n: int, g: int, vectors: int) -> int:
    rows, columns = evidence.shape
    kc = min(vectors * v, columns)
    lists = ceil_div(rows, height) * kc * index_bits(columns)
    return lists + level2_bits(rows, ceil_div(rows, g), kc, n, v, evidence.width)
