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
        return np.count_nonzero(self.used, axis=1)

    @cached_property
    def words(self) -> np.ndarray:
        """The rows as bits, uint64 `[N, ceil(K / 64)]`."""
        packed = np.packbits(self.used, axis=1)
        spare = -packed.shape[1] % 8
        return np.ascontiguousarray(np.pad(packed, ((0, 0), (0, spare)))).view(np.uint64)

    @cached_property
    def sums(self) -> np.ndarray:
        """Non-zeros above and left of each corner, int32 `[N + 1, K + 1]`."""
        sums = np.zeros((self.shape[0] + 1, self.shape[1] + 1), np.int32)
        np.cumsum(self.used, axis=0, dtype=np.int32, out=sums[1:, 1:])
        np.cumsum(sums[1:, 1:], axis=1, out=sums[1:, 1:])
        return sums

    def block_counts(self, bh: int, bw: int) -> np.ndarray:
        """Non-zeros of each bh x bw block, int32 `[ceil(N / bh), ceil(K / bw)]`."""
        rows = np.minimum(np.arange(ceil_div(self.shape[0], bh) + 1) * bh, self.shape[0])
        columns = np.minimum(np.arange(ceil_div(self.shape[1], bw) + 1) * bw, self.shape[1])
        corners = self.sums[rows[:, None], columns]
        return corners[1:, 1:] - corners[:-1, 1:] - corners[1:, :-1] + corners[:-1, :-1]

    def seen(self, height: int) -> np.ndarray:
        """Columns that each block of `height` rows uses, int64 `[ceil(N / height)]`."""
        unions = np.bitwise_or.reduceat(self.words, np.arange(0, self.shape[0], height), axis=0)
        return np.bitwise_count(unions).sum(axis=1, dtype=np.int64)

    @property
    def stray_bits(self) -> int:
        """A weight stored apart: its row, column and value."""
        return index_bits(self.shape[0]) + index_bits(self.shape[1]) + self.width

    @property
    def stray_limit(self) -> int:
        """Most weights that may be stored apart: 1 % of the non-zeros, or a single one of several."""
        return max(self.count // 100, min(1, self.count - 1))

    def without(self, rows: np.ndarray) -> Evidence:
        """The same with these rows empty."""
        used = self.used.copy()
        used[rows] = False
        return Evidence(used, self.width)
