"""How a weight matrix is cut for the kernels over rows of tokens, and how its constants lie.

Rows of W are cut into blocks of `height`, which lie on `lanes` lanes, a multiple of 16 (the lanes past
`height`, and rows past N, are zero). All rows of a block share one list of columns:

    dense    W f32 [blocks, K, lanes]
    else     P i32 [blocks + 1], the first entry of each block, I u16 [entries], W f32 [entries, lanes]
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from espalier.sparsity import Packed


@dataclass(frozen=True)
class TokenShape:
    """dense: no list, all columns in order."""

    n: int
    k: int
    height: int
    dense: bool

    @property
    def lanes(self) -> int:
        return -(-self.height // 16) * 16

    @property
    def blocks(self) -> int:
        return -(-self.n // self.height)

    @property
    def whole(self) -> bool:
        """No block has lanes without a row."""
        return self.lanes == self.height and self.n % self.height == 0


def pack(shape: TokenShape, packed: Packed) -> tuple[np.ndarray, ...]:
    """The arrays that the kernel reads, in the order of its parameters."""
    matrix = packed.unpack().astype(np.float32)
    rows = np.pad(matrix, ((0, shape.blocks * shape.height - shape.n), (0, 0)))
    blocks = rows.reshape(shape.blocks, shape.height, shape.k)
    blocks = np.pad(blocks, ((0, 0), (0, shape.lanes - shape.height), (0, 0)))
    if shape.dense:
        return (np.ascontiguousarray(blocks.transpose(0, 2, 1)),)
    block, column = np.nonzero((blocks != 0).any(axis=1))
    pointers = np.searchsorted(block, np.arange(shape.blocks + 1)).astype(np.int32)
    return pointers, column.astype(np.uint16), np.ascontiguousarray(blocks[block, :, column])
