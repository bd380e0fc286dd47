"""Any zeros at all, stored as compressed rows or as a bitmap, whichever is smaller."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from espalier.sparsity.bitstream import BitReader, BitWriter
from espalier.sparsity.structure import Packed, Structure, as_matrix, index_bits, require


def csr_bits(shape: tuple[int, int], count: int, value_bits: int) -> int:
    """Values, a column of ceil(log2 K) bits each, and N + 1 row pointers of ceil(log2(count + 1)) bits."""
    return count * (value_bits + index_bits(shape[1])) + (shape[0] + 1) * index_bits(count + 1)


def bitmap_bits(shape: tuple[int, int], count: int, value_bits: int) -> int:
    """Values and one bit a position."""
    return count * value_bits + shape[0] * shape[1]


@dataclass(frozen=True)
class Unstructured(Structure):
    """`kept` weights anywhere."""

    kept: int

    def __post_init__(self) -> None:
        require(self.kept >= 0, f"unstructured: kept must not be negative, got {self.kept}")

    @classmethod
    def for_sparsity(cls, shape: tuple[int, int], sparsity: float) -> Unstructured:
        """The number of weights nearest to a wanted sparsity."""
        return cls(round((1.0 - sparsity) * shape[0] * shape[1]))

    @property
    def name(self) -> str:
        return "unstructured"

    def params(self) -> dict[str, Any]:
        return {}

    def mask(self, weight: np.ndarray) -> np.ndarray:
        """The `kept` largest of the whole matrix; of equal ones the first."""
        weight = as_matrix(weight)
        size = np.abs(weight.astype(np.float64)).reshape(-1)
        if not 0 < self.kept < size.size:
            return np.full(weight.shape, self.kept > 0)
        least = np.partition(size, size.size - self.kept)[size.size - self.kept]
        mask = size > least
        ties = np.flatnonzero(size == least)
        mask[ties[: self.kept - np.count_nonzero(mask)]] = True
        return mask.reshape(weight.shape)

    def kept_count(self, shape: tuple[int, int]) -> int:
        return min(self.kept, shape[0] * shape[1])

    def bits(self, shape: tuple[int, int], value_bits: int = 32) -> int:
        """The smaller of compressed rows and a bitmap."""
        count = self.kept_count(shape)
        return min(csr_bits(shape, count, value_bits), bitmap_bits(shape, count, value_bits))

    def encode(self, matrix: np.ndarray) -> PackedUnstructured:
        matrix = as_matrix(matrix)
        rows, columns = np.nonzero(matrix)
        require(
            rows.size <= self.kept,
            f"matrix {list(matrix.shape)} has {rows.size} non-zeros, unstructured holds {self.kept}",
        )
        short = self.kept_count(matrix.shape) - rows.size
        if short:  # zeros that count as kept
            free = np.flatnonzero(matrix.reshape(-1) == 0)[:short]
            flat = np.sort(np.concatenate([rows * matrix.shape[1] + columns, free]))
            rows, columns = np.divmod(flat, matrix.shape[1])
        pointers = np.zeros(matrix.shape[0] + 1, np.int64)
        np.cumsum(np.bincount(rows, minlength=matrix.shape[0]), out=pointers[1:])
        shape = (matrix.shape[0], matrix.shape[1])
        values = matrix[rows, columns]
        return PackedUnstructured(
            self, shape, matrix.dtype, Packed.NONE, pointers, columns.astype(np.int32), values
        )

    def fits(self, matrix: np.ndarray) -> bool:
        return int(np.count_nonzero(as_matrix(matrix))) <= self.kept


@dataclass(frozen=True, eq=False)
class PackedUnstructured(Packed):
    """Compressed rows: pointers int64 `[N + 1]`, columns int32 `[kept]`, values `[kept]`."""

    pointers: np.ndarray
    columns: np.ndarray
    values: np.ndarray

    @property
    def rows(self) -> np.ndarray:
        """The row of each value, int64 `[kept]`."""
        return np.repeat(np.arange(self.shape[0]), np.diff(self.pointers))

    def decode(self) -> np.ndarray:
        matrix = np.zeros(self.shape, self.dtype)
        matrix[self.rows, self.columns] = self.values
        return matrix

    def write(self, out: BitWriter) -> None:
        count, width = self.values.size, self.dtype.itemsize * 8
        if csr_bits(self.shape, count, width) < bitmap_bits(self.shape, count, width):
            out.integers(self.pointers, index_bits(count + 1))
            out.integers(self.columns, index_bits(self.shape[1]))
        else:
            bitmap = np.zeros(self.shape, bool)
            bitmap[self.rows, self.columns] = True
            out.flags(bitmap)
        out.numbers(self.values)

    @classmethod
    def read(
        cls, structure: Unstructured, shape: tuple[int, int], dtype: np.dtype, source: BitReader
    ) -> PackedUnstructured:
        count, width = structure.kept_count(shape), dtype.itemsize * 8
        if csr_bits(shape, count, width) < bitmap_bits(shape, count, width):
            pointers = source.integers(shape[0] + 1, index_bits(count + 1))
            columns = source.integers(count, index_bits(shape[1]))
            sound = pointers[0] == 0 and pointers[-1] == count and bool((np.diff(pointers) >= 0).all())
            require(sound, "packed matrix: row pointers do not rise from 0 to the number of values")
            require(bool((columns < shape[1]).all()), "packed matrix: a column lies outside the matrix")
        else:
            bitmap = source.flags(shape[0] * shape[1]).reshape(shape)
            require(int(bitmap.sum()) == count, "packed matrix: the bitmap does not hold the stated count")
            pointers = np.zeros(shape[0] + 1, np.int64)
            np.cumsum(bitmap.sum(axis=1), out=pointers[1:])
            columns = np.nonzero(bitmap)[1]
        values = source.numbers(count, dtype)
        return cls(structure, shape, dtype, Packed.NONE, pointers, columns.astype(np.int32), values)
