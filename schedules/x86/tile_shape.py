"""How a weight matrix is cut for the kernels over tiles, and how its constants lie.

Rows are cut into blocks of `height`, these into groups of `rows`; lists of columns are cut into `chunks`.
With `groups` of rows in a block the constants are (N, K and lists are padded with zero weights):

    lists "none" (dense)   W f32 [blocks, chunks, groups, count, rows]
    lists "block"          I u16 [blocks, chunks, count] and the same W
    lists "group"          I u16 [blocks, chunks, groups, count] and the same W
    lists "row"            I u64 [blocks, chunks, groups, count / 4, rows], four columns in a word, and
                           W f32 [blocks, chunks, groups, count / 4, rows, 4]
    ragged "group"         P i32 [blocks * chunks * groups + 1], the first entry of each group,
                           I u16 [entries], W f32 [entries, rows]
    ragged "row"           P the same in steps of four entries, I u64 [steps, rows], W f32 [steps, rows, 4],
                           O i32 [blocks * chunks * groups, rows], which row of W stands where: within a block
                           the rows are sorted by length, so that those of a group are equally long
    lists "empty"          nothing
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Lists = Literal["empty", "none", "block", "group", "row"]
"""Who has a list of columns of its own."""

MAX_COLUMNS = 1 << 16
"""Columns are stored in 16 bits."""


@dataclass(frozen=True)
class TileShape:
    """height: rows of W in a block. rows: rows in registers at once. chunks: pieces of a list.

    count: entries of a list in one chunk, a multiple of 4 for lists "row". width: columns of K in a chunk of
    a ragged matrix, 0 for a uniform one.
    """

    n: int
    k: int
    lists: Lists
    height: int
    rows: int
    chunks: int = 1
    count: int = 0
    width: int = 0

    def __post_init__(self) -> None:
        # rows are sorted with those that pad the block, which must not be rows of the next one
        if self.sorted and self.height % self.rows:
            raise ValueError(f"sorted rows: height {self.height} is not a multiple of rows {self.rows}")
        if self.lists == "row" and self.count % 4:
            raise ValueError(f"lists of rows hold a multiple of 4 entries, got count {self.count}")

    @property
    def ragged(self) -> bool:
        return self.width > 0

    @property
    def blocks(self) -> int:
        return -(-self.n // self.height)

    @property
    def groups(self) -> int:
        """Groups of rows in a whole block; the last one may be short."""
        return -(-self.height // self.rows)

    @property
    def steps(self) -> int:
        """Turns of the inner loop in one chunk of a uniform matrix."""
        return self.count // 4 if self.lists == "row" else self.count

    @property
    def pieces(self) -> int:
        """Groups of rows times chunks."""
        return self.blocks * self.chunks * self.groups

    @property
    def sorted(self) -> bool:
        """Rows do not stand in the order of W."""
        return self.ragged and self.lists == "row"

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Of W of a uniform matrix."""
        four = (4,) if self.lists == "row" else ()
        return (self.blocks, self.chunks, self.groups, self.steps, self.rows, *four)

    @property
    def index_shape(self) -> tuple[int, ...]:
        """Of I of a uniform matrix."""
        if self.lists == "block":
            return (self.blocks, self.chunks, self.count)
        return self.weight_shape[:-1]

    @property
    def index_type(self) -> str:
        return "uint64" if self.lists == "row" else "uint16"

    @property
    def entry_index(self) -> tuple[int, ...]:
        """Of one entry (four of them for lists "row") of I of a ragged matrix."""
        return (self.rows,) if self.lists == "row" else ()

    @property
    def entry_weights(self) -> tuple[int, ...]:
        """Of the same of W."""
        return (self.rows, 4) if self.lists == "row" else (self.rows,)
