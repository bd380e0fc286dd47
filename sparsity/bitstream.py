"""Streams of fields whose widths are not whole bytes, least significant bit first."""

from __future__ import annotations

import numpy as np


class BitWriter:
    """Collects fields; `to_bytes` pads the last byte with zeros."""

    def __init__(self) -> None:
        self._parts: list[np.ndarray] = []

    def integers(self, values: np.ndarray, width: int) -> None:
        """Unsigned `values` (any shape, C order), each in `width` bits."""
        values = np.ascontiguousarray(values, dtype="<u8").reshape(-1, 1)
        self._parts.append(
            np.unpackbits(values.view(np.uint8), axis=1, bitorder="little")[:, :width].reshape(-1)
        )

    def flags(self, values: np.ndarray) -> None:
        """Booleans, one bit each."""
        self._parts.append(np.ascontiguousarray(values, dtype=bool).reshape(-1).view(np.uint8))

    def numbers(self, values: np.ndarray) -> None:
        """Values as they are, each in the width of its dtype, little endian."""
        values = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<")).reshape(-1)
        self._parts.append(np.unpackbits(values.view(np.uint8), bitorder="little"))

    def __len__(self) -> int:
        """Bits so far."""
        return sum(part.size for part in self._parts)

    def to_bytes(self) -> bytes:
        bits = np.concatenate(self._parts) if self._parts else np.zeros(0, np.uint8)
        return np.packbits(bits, bitorder="little").tobytes()


class BitReader:
    """Reads fields back in the order in which they were written; ValueError past the end."""

    def __init__(self, data: bytes) -> None:
        self._bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
        self._at = 0

    def _take(self, count: int) -> np.ndarray:
        if count > self._bits.size - self._at:
            raise ValueError(
                f"packed matrix is truncated: {count} bits wanted at bit {self._at} of {self._bits.size}"
            )
        self._at += count
        return self._bits[self._at - count : self._at]

    def integers(self, count: int, width: int) -> np.ndarray:
        """int64[count]"""
        bits = self._take(count * width).reshape(count, width)
        padded = np.zeros((count, 64), np.uint8)
        padded[:, :width] = bits
        return np.packbits(padded, axis=1, bitorder="little").view("<u8").reshape(count).astype(np.int64)

    def flags(self, count: int) -> np.ndarray:
        """bool[count]"""
        return self._take(count).astype(bool)

    def numbers(self, count: int, dtype: np.dtype) -> np.ndarray:
        """`count` values of `dtype`."""
        raw = np.packbits(self._take(count * dtype.itemsize * 8), bitorder="little")
        return np.frombuffer(raw.tobytes(), dtype.newbyteorder("<")).astype(dtype)

    @property
    def position(self) -> int:
        """Bits read so far."""
        return self._at
