"""How a hierarchically pruned matrix lies for the kernel that selects in registers (select_linear.py).

A block of `height` rows of W, padded to `lanes`, a multiple of 16, keeps the columns of one list in
`vectors` vectors of 4; each row keeps `count` of each. Rows lie on the lanes:

    C u16 [lists, vectors * 4]              columns of x; the last vector is filled up with column 0
    S i32 [blocks, words, lanes]            2 bits a weight: which of the 4 columns it is for. A word has
                                            those of `per_word` vectors, in order from the lowest bits
    W f32 [blocks, vectors, count, lanes]
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from espalier.sparsity import HP, NM, Packed, PackedHP, Structure

VECTOR = 4
"""Columns of which a lane can select one: what a permutation within 128 bits reaches."""
WORD = 16
"""Selections in 32 bits."""
TALL = 32
"""Rows of a block, where the structure leaves the choice."""


@dataclass(frozen=True)
class SelectShape:
    """block: rows of W that have one list of columns, `height` or a multiple of it."""

    n: int
    k: int
    block: int
    height: int
    vectors: int
    count: int

    @property
    def lanes(self) -> int:
        return -(-self.height // 16) * 16

    @property
    def per_word(self) -> int:
        """Vectors of columns whose selections share a word."""
        return WORD // self.count

    @property
    def words(self) -> int:
        return -(-self.vectors // self.per_word)

    @property
    def blocks(self) -> int:
        return -(-self.n // self.height)

    @property
    def lists(self) -> int:
        return -(-self.n // self.block)

    @property
    def whole(self) -> bool:
        """No block has lanes without a row."""
        return self.lanes == self.height and self.n % self.height == 0


def select_shape(structure: Structure, n: int, k: int) -> SelectShape | None:
    """The shape of a matrix `[n, k]`; None where this form does not fit the structure."""
    match structure:
        case NM():
            return select_shape(structure.as_hp((n, k)), n, k)
        case HP(v=4):
            block = min(structure.B, n)
            height = block if block <= 2 * TALL else TALL
            if block % height and block < n:
                return None
            return SelectShape(n, k, block, height, -(-structure.kc // VECTOR), structure.n)
    return None


def pack(shape: SelectShape, packed: Packed) -> tuple[np.ndarray, ...]:
    """The arrays that the kernel reads, in the order of its parameters."""
    assert isinstance(packed, PackedHP)
    rows = np.arange(shape.n)
    columns = np.zeros((shape.lists, shape.vectors * VECTOR), np.uint16)
    columns[:, : packed.columns.shape[1]] = packed.columns
    lane = rows // shape.height * shape.lanes + rows % shape.height
    padded = (shape.blocks * shape.lanes, shape.words * shape.per_word, shape.count)
    select = np.zeros(padded, np.uint32)
    select[lane, : shape.vectors] = packed.select[rows // packed.structure.g]  # pyright: ignore[reportAttributeAccessIssue]
    fields = select.reshape(shape.blocks, shape.lanes, shape.words, -1)
    bits = 2 * np.arange(fields.shape[-1], dtype=np.uint32)
    words = (fields << bits).sum(axis=-1, dtype=np.uint32).transpose(0, 2, 1)
    values = np.zeros((shape.blocks * shape.lanes, shape.vectors, shape.count), np.float32)
    values[lane] = packed.values
    values = values.reshape(shape.blocks, shape.lanes, shape.vectors, shape.count).transpose(0, 2, 3, 1)
    return columns, np.ascontiguousarray(words).view(np.int32), np.ascontiguousarray(values)
