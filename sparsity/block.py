"""Block pruning: whole blocks of bh rows and bw columns (block sparse rows, BSR)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from espalier.sparsity.bitstream import BitReader, BitWriter
from espalier.sparsity.structure import Packed, Structure, as_matrix, ceil_div, index_bits, require


def cut(matrix: np.ndarray, bh: int, bw: int) -> np.ndarray:
    """`[N, K]` as blocks `[ceil(N / bh), ceil(K / bw), bh, bw]`, zeros appended where it does not divide."""
    rows, columns = matrix.shape
    tall, wide = ceil_div(rows, bh), ceil_div(columns, bw)
    if (tall * bh, wide * bw) != (rows, columns):
        padded = np.zeros((tall * bh, wide * bw), matrix.dtype)
        padded[:rows, :columns] = matrix
        matrix = padded
    return matrix.reshape(tall, bh, wide, bw).transpose(0, 2, 1, 3)


def join(blocks: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The inverse of `cut`."""
    tall, wide, bh, bw = blocks.shape
    matrix = blocks.transpose(0, 2, 1, 3).reshape(tall * bh, wide * bw)
    return np.ascontiguousarray(matrix[: shape[0], : shape[1]])


@dataclass(frozen=True)
class Block(Structure):
    """`kept` blocks of bh x bw, anywhere; those at an edge may be short."""

    bh: int
    bw: int
    kept: int

    def __post_init__(self) -> None:
        require(min(self.bh, self.bw) >= 1, f"block: bh and bw must be at least 1, got {self.bh}x{self.bw}")
        require(self.kept >= 0, f"block: kept must not be negative, got {self.kept}")

    @classmethod
    def for_sparsity(cls, shape: tuple[int, int], sparsity: float, *, bh: int = 16, bw: int = 1) -> Block:
        """The number of blocks nearest to a wanted sparsity."""
        total = ceil_div(shape[0], bh) * ceil_div(shape[1], bw)
        return cls(bh, bw, max(round((1.0 - sparsity) * total), 1))

    @property
    def name(self) -> str:
        return f"block({self.bh}x{self.bw})"

    def params(self) -> dict[str, Any]:
        return {"bh": self.bh, "bw": self.bw}

    def label(self) -> str:
        return self.name

    def grid(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of blocks."""
        return ceil_div(shape[0], self.bh), ceil_div(shape[1], self.bw)

    def mask(self, weight: np.ndarray) -> np.ndarray:
        """The `kept` blocks with the largest root mean square; of equal ones the first."""
        weight = as_matrix(weight)
        energy = cut(weight.astype(np.float64) ** 2, self.bh, self.bw).sum(axis=(2, 3))
        cells = cut(np.ones(weight.shape), self.bh, self.bw).sum(axis=(2, 3))
        order = np.argsort(-(energy / cells).reshape(-1), kind="stable")[: self.kept]
        chosen = np.zeros(energy.size, bool)
        chosen[order] = True
        return self._spread(chosen.reshape(energy.shape), weight.shape)

    def _spread(self, blocks: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        mask = np.repeat(np.repeat(blocks, self.bh, axis=0), self.bw, axis=1)
        return np.ascontiguousarray(mask[: shape[0], : shape[1]])

    def kept_count(self, shape: tuple[int, int]) -> int:
        """Cells of the kept blocks; exact where none of them is short, else the most there can be."""
        return min(self.kept * self.bh * self.bw, shape[0] * shape[1])

    def bits(self, shape: tuple[int, int], value_bits: int = 32) -> int:
        """kept·bh·bw·w and the index of BSR; a packed matrix counts the cells of short blocks exactly."""
        return self.kept_count(shape) * value_bits + self.index_bits(shape)

    def index_bits(self, shape: tuple[int, int]) -> int:
        """A column of ceil(log2 blocks across) bits a block, ceil(log2(kept + 1)) bits a row pointer."""
        tall, wide = self.grid(shape)
        return self.kept * index_bits(wide) + (tall + 1) * index_bits(self.kept + 1)

    def encode(self, matrix: np.ndarray) -> PackedBlock:
        matrix = as_matrix(matrix)
        cells = cut(matrix, self.bh, self.bw)
        users = (cells != 0).sum(axis=(2, 3)).reshape(-1)
        chosen = np.zeros(users.size, bool)
        chosen[np.argsort(-users, kind="stable")[: self.kept]] = True
        require(
            self.kept <= users.size, f"{self.name}: {self.kept} blocks are kept of the {users.size} there are"
        )
        blocks = chosen.reshape(cells.shape[:2])
        shape = (matrix.shape[0], matrix.shape[1])
        return PackedBlock(self, shape, matrix.dtype, Packed.NONE, blocks, cells[blocks])


@dataclass(frozen=True, eq=False)
class PackedBlock(Packed):
    """blocks: bool `[ceil(N / bh), ceil(K / bw)]`, which are kept.

    values: `[kept, bh, bw]`, row of blocks by row of blocks; zeros outside the matrix.
    """

    blocks: np.ndarray
    values: np.ndarray

    @property
    def pointers(self) -> np.ndarray:
        """Where each row of blocks begins among the kept ones, int64 `[rows of blocks + 1]`."""
        return np.concatenate([[0], np.cumsum(self.blocks.sum(axis=1))])

    @property
    def columns(self) -> np.ndarray:
        """The column of each kept block, int64 `[kept]`."""
        return np.nonzero(self.blocks)[1]

    def inside(self) -> np.ndarray:
        """Which cells of the kept blocks lie inside the matrix, bool `[kept, bh, bw]`."""
        return cut(np.ones(self.shape, bool), *self.values.shape[1:])[self.blocks]

    def kept_count(self) -> int:
        return int(np.count_nonzero(self.inside()))

    def bits(self, value_bits: int | None = None) -> int:
        structure: Any = self.structure
        return structure.index_bits(self.shape) + self.kept_count() * (value_bits or self.dtype.itemsize * 8)

    def decode(self) -> np.ndarray:
        cells = np.zeros((*self.blocks.shape, *self.values.shape[1:]), self.dtype)
        cells[self.blocks] = self.values
        return join(cells, self.shape)

    def write(self, out: BitWriter) -> None:
        out.integers(self.pointers, index_bits(len(self.values) + 1))
        out.integers(self.columns, index_bits(self.blocks.shape[1]))
        out.numbers(self.values[self.inside()])

    @classmethod
    def read(
        cls, structure: Block, shape: tuple[int, int], dtype: np.dtype, source: BitReader
    ) -> PackedBlock:
        tall, wide = structure.grid(shape)
        require(structure.kept <= tall * wide, "packed matrix: more blocks are kept than there are")
        pointers = source.integers(tall + 1, index_bits(structure.kept + 1))
        columns = source.integers(structure.kept, index_bits(wide))
        sound = pointers[0] == 0 and pointers[-1] == structure.kept and (np.diff(pointers) >= 0).all()
        require(bool(sound), "packed matrix: row pointers do not rise from 0 to the number of blocks")
        require(bool((columns < wide).all()), "packed matrix: a column lies outside the matrix")
        blocks = np.zeros((tall, wide), bool)
        blocks[np.repeat(np.arange(tall), np.diff(pointers)), columns] = True
        require(int(blocks.sum()) == structure.kept, "packed matrix: a block is named twice")
        values = np.zeros((structure.kept, structure.bh, structure.bw), dtype)
        packed = cls(structure, shape, dtype, Packed.NONE, blocks, values)
        inside = packed.inside()
        values[inside] = source.numbers(int(inside.sum()), dtype)
        return packed
