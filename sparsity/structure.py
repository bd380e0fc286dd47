"""What every structure and every packed matrix can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from espalier.sparsity.bitstream import BitReader, BitWriter


def index_bits(count: int) -> int:
    """Bits of an index into `count` things: ceil(log2 count), 0 for a single one."""
    return max(count - 1, 0).bit_length()


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def as_matrix(matrix: np.ndarray) -> np.ndarray:
    """`matrix` if it is a non-empty 2-D array of numbers; ValueError otherwise."""
    matrix = np.asarray(matrix)
    if matrix.ndim != 2 or matrix.size == 0:
        raise ValueError(f"expected a matrix [N, K] with N, K >= 1, got shape {list(matrix.shape)}")
    if matrix.dtype.kind not in "fiu":
        raise ValueError(f"expected a matrix of real numbers, got {matrix.dtype}")
    return matrix


def same_bits(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Where two arrays of one shape and dtype hold the same bits, bool of their shape."""
    raw = np.dtype(f"u{a.dtype.itemsize}")
    return np.ascontiguousarray(a).view(raw) == np.ascontiguousarray(b).view(raw)


def require(condition: bool, message: str) -> None:
    """ValueError(message) unless `condition` holds."""
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True)
class Structure(ABC):
    """How the zeros of a weight `[N, K]` lie: a frozen value of a few integers.

    Every structure works on any N, K >= 1: the last block, group or vector may be short.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """The bare name that `inspect` prints: `HP`, `2:4`, `block(16x1)`."""

    @abstractmethod
    def params(self) -> dict[str, Any]:
        """The parameters that `inspect --json` prints."""

    def label(self) -> str:
        """Name and parameters in one word: `HP(B=32,kc=192,v=4,n=2)`."""
        inside = ",".join(f"{key}={value}" for key, value in self.params().items())
        return f"{self.name}({inside})" if inside else self.name

    @abstractmethod
    def mask(self, weight: np.ndarray) -> np.ndarray:
        """Which weights to keep by magnitude: bool `[N, K]`. Any importance score may stand for `weight`."""

    @abstractmethod
    def bits(self, shape: tuple[int, int], value_bits: int = 32) -> int:
        """Size in bits of the packed form of a matrix of this shape."""

    @abstractmethod
    def kept_count(self, shape: tuple[int, int]) -> int:
        """How many weights of a matrix of this shape `mask` keeps."""

    def sparsity(self, shape: tuple[int, int]) -> float:
        """The fraction of a matrix of this shape that is pruned."""
        return 1.0 - self.kept_count(shape) / (shape[0] * shape[1])

    @abstractmethod
    def encode(self, matrix: np.ndarray) -> Packed:
        """Pack as much of `matrix` as this structure can hold; what lies outside is dropped."""

    def pack(self, matrix: np.ndarray) -> Packed:
        """The packed form, which unpacks to `matrix` bit for bit.

        A negative zero that the structure prunes is remembered beside the packed form (`negative_zeros`).
        Raises ValueError where a non-zero weight lies outside the structure.
        """
        matrix = as_matrix(matrix)
        packed = self.encode(matrix)
        back = packed.decode()
        wrong = ~same_bits(back, matrix)
        if not wrong.any():
            return packed
        outside = wrong & (matrix != 0)
        if outside.any():
            row, column = (int(i) for i in np.argwhere(outside)[0])
            raise ValueError(
                f"matrix {list(matrix.shape)} is not {self.label()}: "
                f"{int(outside.sum())} weights lie outside, the first at row {row}, column {column}"
            )
        return packed.with_negative_zeros(np.flatnonzero(wrong))

    def fits(self, matrix: np.ndarray) -> bool:
        """Whether every non-zero of `matrix` lies inside this structure (kept weights may be zero)."""
        matrix = as_matrix(matrix)
        back = self.encode(matrix).decode()
        return bool(((back != 0) | (matrix == 0)).all())


@dataclass(frozen=True, eq=False)
class Packed(ABC):
    """A matrix in the packed form of its structure, as arrays a kernel can use.

    shape: (N, K). dtype: of the values. negative_zeros: flat positions of pruned weights that were -0.0,
    int64, nearly always empty; no kernel needs them and `bits` does not count them.
    """

    structure: Structure
    shape: tuple[int, int]
    dtype: np.dtype
    negative_zeros: np.ndarray

    NONE: ClassVar[np.ndarray] = np.zeros(0, np.int64)

    @abstractmethod
    def decode(self) -> np.ndarray:
        """The matrix `[N, K]` with +0.0 wherever the structure prunes."""

    def kept_count(self) -> int:
        """Values that are stored, zeros among them."""
        return self.structure.kept_count(self.shape)

    def unpack(self) -> np.ndarray:
        """The matrix `[N, K]` that was packed, bit for bit."""
        matrix = self.decode()
        if self.negative_zeros.size:
            matrix.reshape(-1)[self.negative_zeros] = -0.0
        return matrix

    def bits(self, value_bits: int | None = None) -> int:
        """Exact size in bits with values of `value_bits` (default: their own width)."""
        return self.structure.bits(self.shape, value_bits or self.dtype.itemsize * 8)

    def with_negative_zeros(self, positions: np.ndarray) -> Packed:
        return replace(self, negative_zeros=positions)

    @abstractmethod
    def write(self, out: BitWriter) -> None:
        """Write exactly `bits()` bits."""

    @classmethod
    @abstractmethod
    def read(cls, structure: Any, shape: tuple[int, int], dtype: np.dtype, source: BitReader) -> Packed:
        """What `write` wrote; ValueError where the bits cannot be such a matrix."""
