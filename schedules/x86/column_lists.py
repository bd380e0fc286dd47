"""The columns that the rows of a pruned matrix keep, as lists that a kernel walks along.

Most structures are *uniform*: all lists have one length, and `share` successive rows have one list in common
(all rows of a block for BP, g rows for HP). The lists of every other structure are *ragged*.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from espalier.sparsity import BP, HP, NM, Block, Packed, PackedBP, PackedHP, Structure


@dataclass(frozen=True)
class Uniform:
    """Lists of one length for every row.

    block: rows that choose among the same `columns` columns. share: rows that have a list in common, a part
    of the block. count: entries of a list.
    """

    block: int
    share: int
    columns: int
    count: int


def uniform(structure: Structure, n: int, k: int) -> Uniform | None:
    """The form of a matrix `[n, k]` of this structure, None where its lists are ragged."""
    match structure:
        case BP(axis="columns"):
            return Uniform(structure.B, structure.B, structure.kc, structure.kc)
        case HP():
            return Uniform(
                structure.B, structure.g, structure.kc, -(-structure.kc // structure.v) * structure.n
            )
        case NM():
            return uniform(structure.as_hp((n, k)), n, k)
    return None


def kept_by_block(structure: Structure, n: int, k: int, height: int) -> float:
    """Columns of a matrix `[n, k]` that `height` successive rows keep on the average."""
    form = uniform(structure, n, k)
    density = 1 - structure.sparsity((n, k))
    if form is not None and form.block % height == 0:
        return form.columns
    if isinstance(structure, Block) and structure.bh >= height:
        return k * density
    return k * (1 - (1 - density) ** height)


def uniform_lists(packed: Packed) -> tuple[np.ndarray, np.ndarray]:
    """(columns int64 `[N, count]`, values `[N, count]`) of a uniform matrix: kept weights in order, with a
    valid column and a zero where a short vector has none."""
    match packed:
        case PackedBP():
            rows = np.arange(packed.shape[0]) // packed.structure.B  # pyright: ignore[reportAttributeAccessIssue]
            return packed.columns[rows].astype(np.int64), packed.values
        case PackedHP():
            rows = packed.shape[0]
            return packed.positions().reshape(rows, -1), packed.values.reshape(rows, -1)
    raise TypeError(f"{type(packed).__name__} has no uniform lists")
