"""What the same matrix takes in each of the common formats, exactly.

Values keep the width of their dtype. Indices of CSR, CSC, COO and BCSR are int32, as libraries hold them;
`index_width="exact"` counts ceil(log2 n) bits for an index below n instead, as HP's own formula does.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from espalier.sparsity.columns import BP
from espalier.sparsity.hierarchical import HP, NM
from espalier.sparsity.structure import Structure, as_matrix, ceil_div, index_bits

BCSR_BLOCKS = ((1, 2), (1, 4), (2, 2), (4, 1), (4, 4), (8, 1), (8, 8), (16, 1), (16, 16), (32, 1), (32, 32))


def bcsr_blocks(used: np.ndarray, bh: int, bw: int) -> int:
    """How many blocks of bh x bw hold a non-zero."""
    rows, columns = used.shape
    tall = np.logical_or.reduceat(used, np.arange(0, rows, bh), axis=0)
    return int(np.count_nonzero(np.logical_or.reduceat(tall, np.arange(0, columns, bw), axis=1)))


def sizes(
    matrix: np.ndarray,
    structure: Structure,
    *,
    apart: int = 0,
    index_width: Literal["int32", "exact"] = "int32",
) -> dict[str, int | None]:
    """Bytes of `matrix` as dense, coo, csr, csc, bcsr, bitmap and hp, each rounded up to a whole byte.

    bcsr: the smallest over the block sizes BCSR_BLOCKS, edge blocks stored whole. hp: the packed bits of
    `structure` where it is HP, N:M or BP by columns (HP with n = v), otherwise None; `apart` weights outside
    it take their row, column and value besides.
    """
    matrix = as_matrix(matrix)
    rows, columns = matrix.shape
    used = matrix != 0
    count, width = int(np.count_nonzero(used)), matrix.dtype.itemsize * 8

    def index(below: int) -> int:
        return 32 if index_width == "int32" else index_bits(below)

    def compressed(lines: int, across: int, cells: int, cell: int) -> int:
        return cells * (cell * width + index(across)) + (lines + 1) * index(cells + 1)

    bits: dict[str, int | None] = {
        "dense": rows * columns * width,
        "coo": count * (width + index(rows) + index(columns)),
        "csr": compressed(rows, columns, count, 1),
        "csc": compressed(columns, rows, count, 1),
        "bcsr": min(
            compressed(ceil_div(rows, bh), ceil_div(columns, bw), bcsr_blocks(used, bh, bw), bh * bw)
            for bh, bw in BCSR_BLOCKS
        ),
        "bitmap": rows * columns + count * width,
        "hp": hp_bits(structure, (rows, columns), width, apart),
    }
    return {name: None if size is None else ceil_div(size, 8) for name, size in bits.items()}


def hp_bits(structure: Structure, shape: tuple[int, int], width: int, apart: int) -> int | None:
    if not is_hp(structure):
        return None
    return structure.bits(shape, width) + apart * (index_bits(shape[0]) + index_bits(shape[1]) + width)


def is_hp(structure: Structure) -> bool:
    """HP and its special cases: N:M (kc = K) and BP by columns (n = v)."""
    return isinstance(structure, HP | NM) or (isinstance(structure, BP) and structure.axis == "columns")
