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
    fillings: dict[int, np.ndarray] = {}
    believed = 0
    for _, v, n in sorted(found):
        if v not in fillings:
            fillings[v] = filling(evidence.vector_counts(v)[:, : columns // v])
        if plausible(fillings[v], n):
            yield NM(n, v, shared_rows(evidence, v, n))
            believed += 1
        if believed == 2:
            return


def filling(used: np.ndarray) -> np.ndarray:
    """How many vectors hold so many non-zeros, int64 `[most + 1]`; used: non-zeros of whole vectors
    `[rows, vectors]`, of which all-zero rows do not count."""
    return np.bincount(used[used.any(axis=1)].reshape(-1))


def plausible(filling: np.ndarray, n: int) -> bool:
    """Whether about as many vectors hold n weights as when each is zero by chance, and 1 in 64.

    Otherwise n is the most that any vector happens to hold, not what the pruner left in each.
    """
    vectors = filling.sum()
    if not vectors:
        return True
    mean = (np.minimum(np.arange(filling.size), n) * filling).sum() / vectors
    return bool(filling[n:].sum() / vectors >= max(0.7 * (mean / n) ** n, 1 / 64))


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
                if guess.vectors == 1 and guess.g > 1:
                    continue  # one choice of columns for g rows: that is BP with B = g
                best = min(best, guess.bits)
                yield HP(height, min(guess.vectors * guess.v, columns), guess.v, guess.n, guess.g)


BANKS = (2, 4, 8, 16, 32)


def find_banked(evidence: Evidence, best: int) -> Iterator[HP]:
    """Bank-balanced HP for each likely height: the fullest bank tells how many columns each bank keeps."""
    columns = evidence.shape[1]
    for height in heights(evidence):
        unions = evidence.unions(height)
        for v in (v for v in BANKS if v <= columns):
            banks = Evidence(np.arange(columns) % v == np.arange(v)[:, None], 1).words
            per_bank = max(int(np.bitwise_count(unions & bank).sum(axis=1).max()) for bank in banks)
            n = ceil_div(int(evidence.row_counts.max()), max(per_bank, 1))
            if n < v and 0 < per_bank <= columns // v and per_bank * v < columns:  # else N:M
                g = next(g for g in evidence.periods(min(height, 64)) if height % g == 0)
                found = HP(height, per_bank * v, v, n, g, banked=True)
                if found.bits(evidence.shape, evidence.width) < best:
                    yield found


def level2(evidence: Evidence, height: int, best: int) -> list[Guess]:
    """The most likely vectors for blocks of this height: probed on the fullest blocks, then cut in all."""
    used = in_blocks(evidence.used, height)
    users = used.sum(axis=1, dtype=np.int32)
    columns, counts = seen_columns(users, evidence.shape[1])
    probe = np.argsort(-counts, kind="stable")[:4]
    support = compact(used[probe, :128], columns[probe], counts[probe])
    guesses = probe_lengths(evidence, height, support, counts[probe], best)
    whole = compact(used, columns, counts)
    groups = [g for g in evidence.periods(min(height, 64)) if height % g == 0]
    result = []
    likely = sorted(guesses, key=lambda guess: (guess.bits, guess.v))[:3]
    for first in likely:
        if first.bits > 1.02 * likely[0].bits:
            break
        if total_bits(evidence, height, first.v, first.n, groups[0], first.vectors) < best:
            for guess in share(evidence, height, first, groups, whole, counts):
                result.append(guess)
                best = min(best, guess.bits)
    return result


def share(
    evidence: Evidence, height: int, first: Guess, groups: list[int], whole: np.ndarray, counts: np.ndarray
) -> list[Guess]:
    """The guess with the largest g that holds for it, with the usual and the largest number of vectors."""
    for g in groups:
        ends = walk(reach(group_unions(whole, g), first.n), counts, first.v)
        vectors = np.array([len(end) for end in ends])
        usual = int(np.bincount(vectors).argmax())
        if usual <= 1.1 * first.vectors or g == 1:
            return [
                Guess(total_bits(evidence, height, first.v, first.n, g, count), first.v, first.n, g, count)
                for count in {usual, int(vectors.max())}
            ]
    return []


def probe_lengths(
    evidence: Evidence, height: int, support: np.ndarray, counts: np.ndarray, best: int
) -> list[Guess]:
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
            if n * ceil_div(seen, v) * evidence.shape[0] * evidence.width >= best:
                break
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
