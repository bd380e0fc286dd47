"""Block-structured pruning (BP): whole columns of each block of rows, or whole rows of each block of columns.

Source: the RT3 paper (DAC 2021, arXiv 2102.06336), level 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from espalier.sparsity.bitstream import BitReader, BitWriter
from espalier.sparsity.hierarchical import in_blocks, largest
from espalier.sparsity.partition import seen_columns
from espalier.sparsity.structure import Packed, Structure, as_matrix, ceil_div, index_bits, require

Axis = Literal["columns", "rows"]


@dataclass(frozen=True)
class BP(Structure):
    """axis "columns": of each B rows kc whole columns are kept. axis "rows": the same of the transpose, so of
    each B columns kc whole rows. Every block keeps the same number; HP with n = v is BP by columns.
    """

    B: int
    kc: int
    axis: Axis = "columns"

    def __post_init__(self) -> None:
        require(min(self.B, self.kc) >= 1, f"BP: B and kc must be at least 1, got {self.B} and {self.kc}")
        require(self.axis in ("columns", "rows"), f"BP: axis is columns or rows, got {self.axis!r}")

    @classmethod
    def for_sparsity(
        cls, shape: tuple[int, int], sparsity: float, *, B: int = 32, axis: Axis = "columns"
    ) -> BP:
        """The kc nearest to a wanted sparsity."""
        width = shape[1] if axis == "columns" else shape[0]
        return cls(B, min(max(round((1.0 - sparsity) * width), 1), width), axis)

    @property
    def name(self) -> str:
        return "BP"

    def params(self) -> dict[str, Any]:
        return {"B": self.B, "kc": self.kc, "axis": self.axis}

    def label(self) -> str:
        return f"BP(B={self.B},kc={self.kc}{',axis=rows' if self.axis == 'rows' else ''})"

    def turned(self, matrix: np.ndarray) -> np.ndarray:
        """`matrix` as the structure sees it: itself, or its transpose for axis "rows". Its own inverse."""
        return matrix if self.axis == "columns" else matrix.T

    def turned_shape(self, shape: tuple[int, int]) -> tuple[int, int]:
        return shape if self.axis == "columns" else (shape[1], shape[0])

    def mask(self, weight: np.ndarray) -> np.ndarray:
        """The kc columns of each block with the largest l2 norm; of equal ones the first."""
        weight = self.turned(as_matrix(weight))
        self.check(weight.shape)
        norms = in_blocks(weight.astype(np.float64) ** 2, self.B).sum(axis=1)
        mask = np.repeat(largest(norms, self.kc), self.B, axis=0)[: weight.shape[0]]
        return np.ascontiguousarray(self.turned(mask))

    def check(self, turned: tuple[int, ...]) -> None:
        require(self.kc <= turned[1], f"{self.label()} keeps more than the {turned[1]} {self.axis} there are")

    def kept_count(self, shape: tuple[int, int]) -> int:
        rows, columns = self.turned_shape(shape)
        return rows * min(self.kc, columns)

    def bits(self, shape: tuple[int, int], value_bits: int = 32) -> int:
        """R·kc·ceil(log2 K) + N·kc·w with R = ceil(N/B) blocks; N and K change places for axis "rows"."""
        rows, columns = self.turned_shape(shape)
        return ceil_div(rows, self.B) * self.kc * index_bits(columns) + rows * self.kc * value_bits

    def keep(self, matrix: np.ndarray) -> np.ndarray:
        """The kept columns of each block from the non-zeros of the turned matrix, ascending, int64 `[R, kc]`.

        The most used ones; where fewer than kc are used, the first unused ones besides.
        """
        self.check(matrix.shape)
        users = in_blocks(matrix != 0, self.B).sum(axis=1, dtype=np.int32)
        columns, _ = seen_columns(users, self.kc)
        return np.sort(columns[:, : self.kc], axis=1)

    def compact(self, matrix: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """The kept columns side by side: `[N, kc]` of the turned matrix."""
        rows = matrix.shape[0]
        return np.take_along_axis(in_blocks(matrix, self.B), columns[:, None, :], axis=2).reshape(
            -1, self.kc
        )[:rows]

    def scatter(self, compact: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """The matrix of `shape` whose kept columns are `compact`, zero elsewhere."""
        turned = np.zeros(self.turned_shape(shape), compact.dtype)
        rows = np.arange(len(turned))
        turned[rows[:, None], columns[rows // self.B]] = compact
        return np.ascontiguousarray(self.turned(turned))

    def encode(self, matrix: np.ndarray) -> PackedBP:
        matrix = as_matrix(matrix)
        turned = self.turned(matrix)
        columns = self.keep(turned)
        shape = (matrix.shape[0], matrix.shape[1])
        values = self.compact(turned, columns)
        return PackedBP(self, shape, matrix.dtype, Packed.NONE, columns.astype(np.int32), values)


@dataclass(frozen=True, eq=False)
class PackedBP(Packed):
    """columns: int32 `[R, kc]`, ascending. values: `[N, kc]`, block r in rows r·B to r·B + B - 1.

    For axis "rows" both describe the transpose: R blocks of B columns, values `[K, kc]`.
    """

    columns: np.ndarray
    values: np.ndarray

    def decode(self) -> np.ndarray:
        return self.structure.scatter(self.values, self.columns, self.shape)  # pyright: ignore[reportAttributeAccessIssue]

    def write(self, out: BitWriter) -> None:
        write_columns(out, self.columns, self.structure, self.shape)
        out.numbers(self.values)

    @classmethod
    def read(cls, structure: BP, shape: tuple[int, int], dtype: np.dtype, source: BitReader) -> PackedBP:
        columns = read_columns(source, structure, shape)
        rows = structure.turned_shape(shape)[0]
        values = source.numbers(rows * structure.kc, dtype).reshape(rows, structure.kc)
        return cls(structure, shape, dtype, Packed.NONE, columns, values)


def write_columns(out: BitWriter, columns: np.ndarray, structure: Any, shape: tuple[int, int]) -> None:
    out.integers(columns, index_bits(structure.turned_shape(shape)[1]))


def read_columns(source: BitReader, structure: BP, shape: tuple[int, int]) -> np.ndarray:
    """int32 `[R, kc]`; ValueError for a column outside the matrix."""
    rows, total = structure.turned_shape(shape)
    blocks = ceil_div(rows, structure.B)
    columns = source.integers(blocks * structure.kc, index_bits(total)).reshape(blocks, structure.kc)
    require(bool((columns < total).all()), "packed matrix: a column lies outside the matrix")
    return columns.astype(np.int32)
