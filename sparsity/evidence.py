"""The zeros of a matrix in the forms that the finders of structures ask for, each made once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from espalier.sparsity.structure import ceil_div, index_bits


@dataclass(frozen=True, eq=False)
class Evidence:
    """used: bool `[N, K]`, where the matrix is not zero. width: bits of a value."""

    used: np.ndarray
    width: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.used.shape[0], self.used.shape[1]

    @cached_property
    def count(self) -> int:
        """Non-zeros."""
        return int(np.count_nonzero(self.used))

    @cached_property
    def turned(self) -> Evidence:
        """The same of the transpose."""
        return Evidence(np.ascontiguousarray(self.used.T), self.width)

    @cached_property
    def row_counts(self) -> np.ndarray:
        """Non-zeros of each row, int64 `[N]`."""
        return np.bitwise_count(self.words).sum(axis=1, dtype=np.int64)

    @cached_property
    def words(self) -> np.ndarray:
        """The rows as bits, uint64 `[N, ceil(K / 64)]`."""
        packed = np.packbits(self.used, axis=1)
        spare = -packed.shape[1] % 8
        return np.ascontiguousarray(np.pad(packed, ((0, 0), (0, spare)))).view(np.uint64)

    @cached_property
    def _unions(self) -> list[np.ndarray]:
        """Level i: the union of 2^i rows from each row on, uint64 `[N, ceil(K / 64)]`."""
        levels = [self.words]
        while 2 ** len(levels) <= self.shape[0]:
            last, half = levels[-1], 2 ** (len(levels) - 1)
            joined = last.copy()
            joined[:-half] |= last[half:]
            levels.append(joined)
        return levels

    def unions(self, height: int) -> np.ndarray:
        """The union of each block of `height` rows as bits, uint64 `[ceil(N / height), ceil(K / 64)]`."""
        rows = self.shape[0]
        level = min(height, rows).bit_length() - 1
        starts = np.arange(0, rows, height)
        second = np.minimum(starts + height - 2**level, rows - 1)
        return self._unions[level][starts] | self._unions[level][np.maximum(second, starts)]

    def seen(self, height: int) -> np.ndarray:
        """Columns that each block of `height` rows uses, int64 `[ceil(N / height)]`."""
        if height not in self._seen:
            self._seen[height] = np.bitwise_count(self.unions(height)).sum(axis=1, dtype=np.int64)
        return self._seen[height]

    @cached_property
    def _seen(self) -> dict[int, np.ndarray]:
        return {}

    @cached_property
    def sums(self) -> np.ndarray:
        """Non-zeros of each row left of each column, uint16 or int32 `[N, K + 1]`."""
        small = np.uint16 if self.shape[1] < 2**16 else np.int32
        sums = np.zeros((self.shape[0], self.shape[1] + 1), small)
        np.cumsum(self.used, axis=1, dtype=small, out=sums[:, 1:])
        return sums

    def vector_counts(self, v: int) -> np.ndarray:
        """Non-zeros of each row in each v columns, `[N, ceil(K / v)]`; the last ones may be short."""
        ends = np.minimum(np.arange(ceil_div(self.shape[1], v) + 1) * v, self.shape[1])
        return np.diff(self.sums[:, ends], axis=1)

    def block_counts(self, bh: int, bw: int) -> np.ndarray:
        """Non-zeros of each bh x bw block, int64 `[ceil(N / bh), ceil(K / bw)]`."""
        counts = self.vector_counts(bw)
        return np.add.reduceat(counts, np.arange(0, self.shape[0], bh), axis=0, dtype=np.int64)

    @cached_property
    def corners(self) -> np.ndarray:
        """Non-zeros above and left of each corner, int32 `[N + 1, K + 1]`."""
        corners = np.zeros((self.shape[0] + 1, self.shape[1] + 1), np.int32)
        np.cumsum(self.sums, axis=0, dtype=np.int32, out=corners[1:])
        return corners

    @cached_property
    def changes(self) -> np.ndarray:
        """Rows whose zeros differ much from those of the row above, more than by a few kept zeros."""
        differ = np.bitwise_count(self.words[1:] ^ self.words[:-1]).sum(axis=1, dtype=np.int64)
        most = min(int(differ.max(initial=0)), 2 * int(np.median(self.row_counts)))
        return np.flatnonzero(differ > 0.35 * most) + 1

    def periods(self, limit: int) -> list[int]:
        """Group sizes g <= limit at whose multiples nearly all changes lie, the largest first."""
        for g in range(len(self._periodic), limit + 1):
            odd = int(np.count_nonzero(self.changes % g))
            self._periodic.append(g == 1 or odd <= self.changes.size // 50)
        return [g for g in range(limit, 0, -1) if self._periodic[g]]

    @cached_property
    def _periodic(self) -> list[bool]:
        """Whether each number from 0 on is such a size, as far as was asked."""
        return [False]

    @property
    def stray_bits(self) -> int:
        """A weight stored apart: its row, column and value."""
        return index_bits(self.shape[0]) + index_bits(self.shape[1]) + self.width

    @property
    def stray_limit(self) -> int:
        """Most weights that may be stored apart: one in a thousand, or a single one of several."""
        return max(self.count // 1000, min(1, self.count - 1))

    def without(self, rows: np.ndarray) -> Evidence:
        """The same with each of these rows replaced by the more similar of its neighbours."""
        above, below = np.maximum(rows - 1, 0), np.minimum(rows + 1, self.shape[0] - 1)
        common = [
            np.where(near == rows, -1, np.count_nonzero(self.used[rows] & self.used[near], axis=1))
            for near in (above, below)
        ]
        used = self.used.copy()
        used[rows] = self.used[np.where(common[0] >= common[1], above, below)]
        return Evidence(used, self.width)

    @cached_property
    def trusted(self) -> list[Evidence]:
        """The evidence whole, and without the few rows that have more non-zeros than the rest.

        A row with more than its vectors hold has a weight outside the structure, which would hide it.
        """
        counts = self.row_counts
        usual = int(np.quantile(counts, 0.95, method="lower"))
        odd = np.flatnonzero(counts > usual)
        return [self, self.without(odd)] if odd.size else [self]
