"""How a weight matrix is cut for the int8 kernels, and how its constants lie.

Rows of W are cut into lists of `height` rows, which have their columns in common: all K (dense), those that a
block keeps (BP; HP too, with zeros where a row does not keep a column), or those that the g rows of a group
keep. The rows of a list are done `rows` at a time; `lists` successive lists make a job. A list is walked in
`steps` of `columns` columns (4 or 2, see int8_dot.py), padded with zero weights:

    I  u64 (u32 for 2 columns) [all lists, steps], the u16 columns of a step; absent for dense
    W  i32 [all lists, groups, steps, rows], a step's weights of a row in each word
    Scale f32 [N] and Offset i32 [N], see int8_pack.py
"""

from __future__ import annotations

from dataclasses import dataclass

from espalier.schedules.x86.int8_dot import Dot


@dataclass(frozen=True)
class Int8Shape:
    """entries: columns of a list. masked: lists are a block's columns, of which a row keeps only some."""

    n: int
    k: int
    dot: Dot
    height: int
    rows: int
    lists: int
    entries: int
    dense: bool = False
    masked: bool = False

    @property
    def all_lists(self) -> int:
        return -(-self.n // self.height)

    @property
    def jobs(self) -> int:
        return -(-self.all_lists // self.lists)

    @property
    def groups(self) -> int:
        """Of rows in a whole list; the last one may be short."""
        return -(-self.height // self.rows)

    @property
    def steps(self) -> int:
        return -(-self.entries // self.dot.columns)

    @property
    def index_shape(self) -> tuple[int, int]:
        return (self.all_lists, self.steps)

    @property
    def index_type(self) -> str:
        return f"uint{16 * self.dot.columns}"

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        return (self.all_lists, self.groups, self.steps, self.rows)
