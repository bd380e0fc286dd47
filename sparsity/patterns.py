"""Pattern pruning (PP): every p x p block keeps the cells of one pattern out of a small set.

Source: the RT3 paper (DAC 2021, arXiv 2102.06336), level 2. A set is made from importance maps, the sums of
|w| over randomly drawn blocks, each cut to a common count of kept cells; a block takes the pattern that loses
least.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from espalier.sparsity.bitstream import BitReader, BitWriter
from espalier.sparsity.block import cut, join
from espalier.sparsity.hierarchical import largest
from espalier.sparsity.structure import Packed, Structure, as_matrix, ceil_div, index_bits, require


def importance_patterns(weight: np.ndarray, p: int, m: int, kept: int, *, seed: int = 0) -> np.ndarray:
    """m candidate patterns, bool `[m, p, p]`: importance maps of random halves of the whole blocks."""
    blocks = np.abs(cut(whole(weight, p).astype(np.float64), p, p)).reshape(-1, p * p)
    random = np.random.default_rng(seed)
    count = ceil_div(len(blocks), 2)
    maps = np.stack([blocks[random.choice(len(blocks), count, replace=False)].sum(axis=0) for _ in range(m)])
    return largest(maps, kept).reshape(m, p, p)


def whole(matrix: np.ndarray, p: int) -> np.ndarray:
    """`matrix` without its short blocks, where it has others: their missing cells would seem unimportant."""
    rows, columns = (size // p * p or size for size in matrix.shape)
    return matrix[:rows, :columns]


def assign_patterns(weight: np.ndarray, patterns: np.ndarray) -> np.ndarray:
    """The pattern that keeps most of each block's energy, int64 `[ceil(N / p), ceil(K / p)]`."""
    m, p, _ = patterns.shape
    energy = cut(weight.astype(np.float64) ** 2, p, p)
    score = energy.reshape(-1, p * p) @ patterns.reshape(m, p * p).T.astype(np.float64)
    return score.argmax(axis=1).reshape(energy.shape[:2])


def refine_patterns(weight: np.ndarray, patterns: np.ndarray, *, rounds: int = 8) -> np.ndarray:
    """Patterns that lose no more in whole blocks: each becomes the best for the blocks that take it.

    Alternates assignment and choice (as k-means does) until nothing changes; neither step can lose energy.
    """
    weight = whole(weight, patterns.shape[1])
    m, p, _ = patterns.shape
    kept = int(patterns[0].sum())
    energy = cut(weight.astype(np.float64) ** 2, p, p).reshape(-1, p * p)
    for _ in range(rounds):
        choice = assign_patterns(weight, patterns).reshape(-1)
        maps = np.stack([energy[choice == i].sum(axis=0) for i in range(m)])
        better = largest(maps, kept).reshape(m, p, p)
        idle = np.bincount(choice, minlength=m) == 0
        better[idle] = patterns[idle]
        if (better == patterns).all():
            break
        patterns = better
    return patterns


@dataclass(frozen=True)
class PP(Structure):
    """m patterns of p x p cells, each with `kept` cells. A short block at an edge takes a corner of one."""

    p: int
    m: int
    kept: int

    def __post_init__(self) -> None:
        require(min(self.p, self.m) >= 1, f"PP: p and m must be at least 1, got {self.p} and {self.m}")
        require(1 <= self.kept <= self.p**2, f"PP: kept lies between 1 and p² = {self.p**2}, got {self.kept}")

    @classmethod
    def for_sparsity(cls, shape: tuple[int, int], sparsity: float, *, p: int = 100, m: int = 4) -> PP:
        """The number of kept cells nearest to a wanted sparsity."""
        return cls(p, m, max(round((1.0 - sparsity) * p * p), 1))

    @property
    def name(self) -> str:
        return "PP"

    def params(self) -> dict[str, Any]:
        return {"p": self.p, "m": self.m, "kept": self.kept}

    def patterns(self, weight: np.ndarray, *, seed: int = 0) -> np.ndarray:
        """A pattern set for this weight, bool `[m, p, p]`: importance maps, then refined."""
        weight = as_matrix(weight)
        return refine_patterns(weight, importance_patterns(weight, self.p, self.m, self.kept, seed=seed))

    def mask(self, weight: np.ndarray, *, patterns: np.ndarray | None = None) -> np.ndarray:
        """Every block keeps the pattern that loses least, of the given set or one made for this weight."""
        weight = as_matrix(weight)
        patterns = self.patterns(weight) if patterns is None else np.asarray(patterns, bool)
        self.check_patterns(patterns)
        return join(patterns[assign_patterns(weight, patterns)], (weight.shape[0], weight.shape[1]))

    def check_patterns(self, patterns: np.ndarray) -> None:
        require(
            patterns.shape == (self.m, self.p, self.p)
            and bool((patterns.sum(axis=(1, 2)) == self.kept).all()),
            f"expected {self.m} patterns of {self.p}x{self.p} with {self.kept} kept cells each",
        )

    def grid(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of blocks."""
        return ceil_div(shape[0], self.p), ceil_div(shape[1], self.p)

    def kept_count(self, shape: tuple[int, int]) -> int:
        """Exact where p divides N and K; a short block counts as the most it can keep."""
        tall, wide = self.grid(shape)
        heights = np.minimum(self.p, shape[0] - np.arange(tall) * self.p)
        widths = np.minimum(self.p, shape[1] - np.arange(wide) * self.p)
        return int(np.minimum(np.outer(heights, widths), self.kept).sum())

    def bits(self, shape: tuple[int, int], value_bits: int = 32) -> int:
        """m·p² of patterns, ceil(log2 m) a block, w a kept cell; a packed matrix tells it exactly."""
        return self.index_bits(shape) + self.kept_count(shape) * value_bits

    def index_bits(self, shape: tuple[int, int]) -> int:
        tall, wide = self.grid(shape)
        return self.m * self.p**2 + tall * wide * index_bits(self.m)

    def encode(self, matrix: np.ndarray) -> PackedPP:
        matrix = as_matrix(matrix)
        patterns, choice = find_patterns(matrix != 0, self.p, self.m, self.kept)
        return lay(self, matrix, patterns, choice)


@dataclass(frozen=True, eq=False)
class PackedPP(Packed):
    """patterns: bool `[m, p, p]`. choice: uint8 or uint16 `[ceil(N / p), ceil(K / p)]`.

    values: `[count]`, block after block (row of blocks by row of blocks), in each the kept cells row by row;
    a short block holds only the cells inside the matrix.
    """

    patterns: np.ndarray
    choice: np.ndarray
    values: np.ndarray

    def cells(self) -> np.ndarray:
        """Which cells are kept, bool `[tall, wide, p, p]`, False outside the matrix."""
        p = self.patterns.shape[1]
        return self.patterns[self.choice] & cut(np.ones(self.shape, bool), p, p)

    def starts(self) -> np.ndarray:
        """Where the values of each block begin, int64 `[tall * wide + 1]`."""
        counts = self.cells().sum(axis=(2, 3)).reshape(-1)
        return np.concatenate([[0], np.cumsum(counts)])

    def decode(self) -> np.ndarray:
        cells = self.cells()
        values = np.zeros(cells.shape, self.dtype)
        values[cells] = self.values
        return join(values, self.shape)

    def kept_count(self) -> int:
        return self.values.size

    def bits(self, value_bits: int | None = None) -> int:
        structure: Any = self.structure
        return structure.index_bits(self.shape) + self.values.size * (value_bits or self.dtype.itemsize * 8)

    def write(self, out: BitWriter) -> None:
        out.flags(self.patterns)
        out.integers(self.choice, index_bits(len(self.patterns)))
        out.numbers(self.values)

    @classmethod
    def read(cls, structure: PP, shape: tuple[int, int], dtype: np.dtype, source: BitReader) -> PackedPP:
        m, p = structure.m, structure.p
        patterns = source.flags(m * p * p).reshape(m, p, p)
        require(
            bool((patterns.sum(axis=(1, 2)) == structure.kept).all()),
            f"packed matrix: a pattern does not keep {structure.kept} cells",
        )
        tall, wide = structure.grid(shape)
        choice = source.integers(tall * wide, index_bits(m)).reshape(tall, wide)
        require(bool((choice < m).all()), "packed matrix: a block names a pattern that is not there")
        packed = cls(
            structure, shape, dtype, Packed.NONE, patterns, narrow_choice(choice, m), np.zeros(0, dtype)
        )
        values = source.numbers(int(packed.starts()[-1]), dtype)
        return cls(structure, shape, dtype, Packed.NONE, patterns, packed.choice, values)


def narrow_choice(choice: np.ndarray, m: int) -> np.ndarray:
    return choice.astype(np.uint8 if m <= 256 else np.uint16 if m <= 65536 else np.int32)


def lay(structure: PP, matrix: np.ndarray, patterns: np.ndarray, choice: np.ndarray) -> PackedPP:
    """Pack what of `matrix` lies in the patterns that the blocks take."""
    shape = (matrix.shape[0], matrix.shape[1])
    choice = narrow_choice(choice, len(patterns))
    empty = PackedPP(structure, shape, matrix.dtype, Packed.NONE, patterns, choice, matrix[:0, 0])
    return replace(empty, values=cut(matrix, structure.p, structure.p)[empty.cells()])


def find_patterns(support: np.ndarray, p: int, m: int, kept: int) -> tuple[np.ndarray, np.ndarray]:
    """Patterns bool `[m, p, p]` with `kept` cells and the one of each block, from the non-zeros alone.

    A kept weight may be zero, so the support of a block is a part of its pattern. Two ways are tried, and the
    one that leaves fewer weights outside is taken: unions that stay within `kept`, and the usual cells of
    blocks that are alike (which a weight outside its pattern does not mislead).
    """
    cells = cut(support, p, p)
    grid = cells.shape[:2]
    kinds, inverse, counts = distinct(np.ascontiguousarray(cells).reshape(-1, p * p))
    best, fewest = None, None
    for propose in (joined_patterns, usual_patterns):
        patterns = propose(kinds, counts, m, kept)
        covered = kinds.astype(np.float32) @ patterns.T.astype(np.float32)
        choice = covered.argmax(axis=1)
        outside = int(((kinds.sum(axis=1) - covered.max(axis=1)) * counts).sum())
        if fewest is None or outside < fewest:
            best, fewest = (patterns, choice), outside
        if outside == 0:
            break
    assert best is not None
    return best[0].reshape(m, p, p), best[1][inverse].reshape(grid)


def distinct(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(kinds bool `[count, cells]`, the kind of each block, how many blocks are of each kind)."""
    packed = np.packbits(blocks, axis=1)
    keys = packed.view(np.dtype((np.void, packed.shape[1]))).reshape(-1)
    _, first, inverse, counts = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
    return blocks[first], inverse.reshape(-1), counts


def joined_patterns(kinds: np.ndarray, counts: np.ndarray, m: int, kept: int) -> np.ndarray:
    """The fullest kinds found patterns, bool `[m, cells]`; a kind joins the pattern it overlaps most (by half
    or more) with a union of at most `kept` cells. Kinds with more than `kept` cells have no say.
    """
    size = kinds.sum(axis=1)
    founded = np.zeros((m, kinds.shape[1]), bool)
    used = 0
    for kind in np.lexsort((-counts, -size)):
        if not 0 < size[kind] <= kept:
            continue
        overlap = np.count_nonzero(founded[:used] & kinds[kind], axis=1)
        union = np.count_nonzero(founded[:used], axis=1) + size[kind] - overlap
        joins = np.flatnonzero((union <= kept) & (2 * overlap >= size[kind]))
        if joins.size:
            founded[joins[overlap[joins].argmax()]] |= kinds[kind]
        elif used < m:
            founded[used] = kinds[kind]
            used += 1
    return filled(founded, founded.astype(np.int64), kept)


def usual_patterns(kinds: np.ndarray, counts: np.ndarray, m: int, kept: int) -> np.ndarray:
    """The `kept` most used cells of each cluster of kinds that are alike, bool `[m, cells]`."""
    uses = np.zeros((m, kinds.shape[1]), np.int64)
    for i, members in enumerate(clusters(kinds, counts, m)):
        uses[i] = counts[members] @ kinds[members]
    return filled(np.zeros(uses.shape, bool), uses, kept)


def filled(patterns: np.ndarray, uses: np.ndarray, kept: int) -> np.ndarray:
    """`patterns` grown to `kept` cells each by the most used ones; of equal ones the first."""
    rank = uses + patterns * (uses.max(initial=0) + 1)
    return largest(rank.astype(np.float64), kept)


def clusters(kinds: np.ndarray, counts: np.ndarray, most: int) -> list[list[int]]:
    """Kinds with nearly the same cells, the fullest first; past `most` clusters each joins the nearest."""
    size = kinds.sum(axis=1)
    density = float(size.max(initial=0)) / kinds.shape[1]
    often = max(3, 0.02 * counts.sum())  # so many equal blocks are no accident
    founders = np.zeros((0, kinds.shape[1]), np.float32)
    members: list[list[int]] = []
    for kind in np.lexsort((-counts, -size)):
        if size[kind] == 0:
            continue
        overlap = founders @ kinds[kind].astype(np.float32)
        near = int(overlap.argmax()) if len(members) else -1
        alike = near >= 0 and overlap[near] >= (1.0 + density) / 2 * size[kind]
        own = counts[kind] >= often and (near < 0 or overlap[near] < size[kind])
        if len(members) < most and (own or not alike):
            founders = np.vstack([founders, kinds[kind]])
            members.append([int(kind)])
        else:
            members[near].append(int(kind))
    return members
