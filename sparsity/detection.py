"""Which structure a plain matrix has, from its zeros alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from espalier.sparsity.backbone import BPPP
from espalier.sparsity.block import Block
from espalier.sparsity.columns import BP
from espalier.sparsity.evidence import Evidence
from espalier.sparsity.find_block import find_block
from espalier.sparsity.find_columns import find_bp
from espalier.sparsity.find_vectors import find_hp, find_nm
from espalier.sparsity.hierarchical import HP, NM
from espalier.sparsity.patterns import PP
from espalier.sparsity.plain import Dense, Zero
from espalier.sparsity.structure import Packed, Structure, as_matrix, same_bits
from espalier.sparsity.unstructured import Unstructured

TIES = (Dense, Zero, NM, BP, Block, HP, PP, BPPP, Unstructured)


@dataclass(frozen=True, eq=False)
class Remainder:
    """The few weights outside a structure: rows and columns int32 `[count]`, values `[count]`, none zero."""

    rows: np.ndarray
    columns: np.ndarray
    values: np.ndarray

    @property
    def count(self) -> int:
        return self.values.size


@dataclass(frozen=True, eq=False)
class Detection:
    """What a matrix is. packed: all of it but the remainder. remainder: None where nothing lies outside.

    bits: of the packed form and the remainder together (a weight apart takes its row, column and value).
    """

    structure: Structure
    remainder: Remainder | None
    packed: Packed
    bits: int

    @property
    def name(self) -> str:
        return self.structure.name

    def params(self) -> dict[str, Any]:
        """The structure's, and "remainder" with the number of weights outside where there are any."""
        params = self.structure.params()
        return params if self.remainder is None else params | {"remainder": self.remainder.count}

    def label(self) -> str:
        label = self.structure.label()
        return label if self.remainder is None else f"{label}+{self.remainder.count}"

    def unpack(self) -> np.ndarray:
        """The matrix that was looked at, bit for bit."""
        matrix = self.packed.unpack()
        if self.remainder is not None:
            matrix[self.remainder.rows, self.remainder.columns] = self.remainder.values
        return matrix


def detect(matrix: np.ndarray) -> Detection:
    """The structure with the fewest bits; on a tie the first of TIES, then the smallest parameters.

    A weight outside a structure is stored apart where that takes fewer bits, up to 1 % of the weights. A kept
    column that no row uses leaves no trace and does not count. -0.0 counts as pruned.
    """
    matrix = as_matrix(matrix)
    evidence = Evidence(np.ascontiguousarray(matrix != 0), matrix.dtype.itemsize * 8)
    if evidence.count == matrix.size:
        return attempt(evidence, matrix, Dense())
    if evidence.count == 0:
        return attempt(evidence, matrix, Zero())
    best = min((attempt(evidence, matrix, s) for s in (Dense(), Unstructured(evidence.count))), key=rank)
    for structure in proposals(evidence, best.bits):
        if structure.bits(evidence.shape, evidence.width) > best.bits + slack(structure, evidence):
            continue
        found = attempt(evidence, matrix, structure)
        if found.packed is not None and rank(found) < rank(best):
            best = found
    return best


def slack(structure: Structure, evidence: Evidence) -> int:
    """By how much `bits(shape)` may exceed the exact size."""
    return (
        evidence.shape[0] * evidence.shape[1] * evidence.width
        if isinstance(structure, PP | BPPP | Block)
        else 0
    )


def proposals(evidence: Evidence, best: int) -> Iterator[Structure]:
    """Candidates of every kind, the cheaper to find first."""
    yield from find_nm(evidence, best)
    yield from find_bp(evidence, "columns")
    yield from find_bp(evidence, "rows")
    yield from find_block(evidence)
    yield from find_hp(evidence, best)


def rank(detection: Detection) -> tuple[int, int, tuple[int, ...]]:
    numbers = tuple(value for value in detection.structure.params().values() if isinstance(value, int))
    return detection.bits, TIES.index(type(detection.structure)), numbers


def attempt(evidence: Evidence, matrix: np.ndarray, structure: Structure) -> Detection:
    """`matrix` in this structure, what lies outside apart; infinite bits where that is too much."""
    packed = structure.encode(matrix)
    back = packed.decode()
    wrong = ~same_bits(back, matrix)
    outside = wrong & evidence.used
    negative = wrong & ~evidence.used
    if negative.any():
        packed = packed.with_negative_zeros(np.flatnonzero(negative))
    rows, columns = np.nonzero(outside)
    bits = packed.bits() + rows.size * evidence.stray_bits
    if rows.size > evidence.stray_limit and not isinstance(structure, Dense | Zero | Unstructured):
        bits = 1 << 62
    remainder = None
    if rows.size:
        values = matrix[rows, columns]
        remainder = Remainder(rows.astype(np.int32), columns.astype(np.int32), values)
    return Detection(structure, remainder, packed, bits)
