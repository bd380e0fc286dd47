"""Dense and all-zero matrices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from espalier.sparsity.bitstream import BitReader, BitWriter
from espalier.sparsity.structure import Packed, Structure, as_matrix


@dataclass(frozen=True)
class Dense(Structure):
    """Nothing is pruned."""

    @property
    def name(self) -> str:
        return "dense"

    def params(self) -> dict[str, Any]:
        return {}

    def mask(self, weight: np.ndarray) -> np.ndarray:
        return np.ones(as_matrix(weight).shape, bool)

    def kept_count(self, shape: tuple[int, int]) -> int:
        return shape[0] * shape[1]

    def bits(self, shape: tuple[int, int], value_bits: int = 32) -> int:
        """N·K·w"""
        return shape[0] * shape[1] * value_bits

    def encode(self, matrix: np.ndarray) -> PackedDense:
        matrix = as_matrix(matrix)
        return PackedDense(self, (matrix.shape[0], matrix.shape[1]), matrix.dtype, Packed.NONE, matrix.copy())


@dataclass(frozen=True, eq=False)
class PackedDense(Packed):
    """values `[N, K]`"""

    values: np.ndarray

    def decode(self) -> np.ndarray:
        return self.values.copy()

    def write(self, out: BitWriter) -> None:
        out.numbers(self.values)

    @classmethod
    def read(
        cls, structure: Dense, shape: tuple[int, int], dtype: np.dtype, source: BitReader
    ) -> PackedDense:
        values = source.numbers(shape[0] * shape[1], dtype).reshape(shape)
        return cls(structure, shape, dtype, Packed.NONE, values)


@dataclass(frozen=True)
class Zero(Structure):
    """Everything is pruned."""

    @property
    def name(self) -> str:
        return "zero"

    def params(self) -> dict[str, Any]:
        return {}

    def mask(self, weight: np.ndarray) -> np.ndarray:
        return np.zeros(as_matrix(weight).shape, bool)

    def kept_count(self, shape: tuple[int, int]) -> int:
        return 0

    def bits(self, shape: tuple[int, int], value_bits: int = 32) -> int:
        """Nothing needs storing."""
        return 0

    def encode(self, matrix: np.ndarray) -> PackedZero:
        matrix = as_matrix(matrix)
        return PackedZero(self, (matrix.shape[0], matrix.shape[1]), matrix.dtype, Packed.NONE)


@dataclass(frozen=True, eq=False)
class PackedZero(Packed):
    """No arrays: the shape says it all."""

    def decode(self) -> np.ndarray:
        return np.zeros(self.shape, self.dtype)

    def write(self, out: BitWriter) -> None:
        pass

    @classmethod
    def read(cls, structure: Zero, shape: tuple[int, int], dtype: np.dtype, source: BitReader) -> PackedZero:
        return cls(structure, shape, dtype, Packed.NONE)
