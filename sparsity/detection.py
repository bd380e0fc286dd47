"""Which structure a plain matrix has, from its zeros alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from espalier.sparsity.backbone import BPPP
from espalier.sparsity.block import Block
from espalier.sparsity.columns import BP
from espalier.sparsity.evidence import Evidence
from espalier.sparsity.find_block import find_block
from espalier.sparsity.find_columns import find_bp
from espalier.sparsity.find_patterns import find_bppp, find_pp
from espalier.sparsity.find_vectors import filling, find_banked, find_hp, find_nm, plausible
from espalier.sparsity.hierarchical import HP, NM, PackedHP
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
    """The structure with the fewest bits; on a tie the first of TIES, then the smallest vectors and blocks.

    A weight outside a structure is stored apart where that takes fewer bits, up to one in a thousand. A kept
    column that no row uses leaves no trace and does not count. -0.0 counts as pruned. Against dense and
    unstructured alone, kept weights that happen to be zero are not held against a structure: see `forgiven`.
    """
    matrix = as_matrix(matrix)
    evidence = Evidence(np.ascontiguousarray(matrix != 0), matrix.dtype.itemsize * 8)
    if evidence.count == matrix.size:
        return attempt(evidence, matrix, Dense())
    if evidence.count == 0:
        return attempt(evidence, matrix, Zero())
    shape, width = evidence.shape, evidence.width
    plain = min((Dense(), Unstructured(evidence.count)), key=lambda s: order(s.bits(shape, width), s))
    bar = order(plain.bits(shape, width), plain)
    limit, best = order(bar[0] + width * most_forgiven(evidence), plain), None
    for find in FINDERS:
        for structure in sorted(set(find(evidence, limit[0])), key=lambda s: order(s.bits(shape, width), s)):
            if order(least_bits(structure, evidence), structure) >= limit:
                continue
            if structure.kept_count(evidence.shape) < evidence.count - evidence.stray_limit:
                continue  # it has no room for so many weights
            found = attempt(evidence, matrix, structure)
            if not believable(found.packed):
                continue
            free = width * forgiven(evidence, found)
            if order(found.bits, structure) < limit and order(found.bits - free, structure) < bar:
                limit, best = order(found.bits, structure), found
    return best or attempt(evidence, matrix, plain)


FORGIVABLE = 8
"""One kept weight in so many may be zero by chance."""


def most_forgiven(evidence: Evidence) -> int:
    """No structure is forgiven more zeros than this; none at all where nearly everything is kept."""
    if 4 * evidence.count > 3 * evidence.used.size:
        return 0
    empty = max(empty_share(evidence.row_counts), empty_share(evidence.turned.row_counts))
    return int(evidence.count * (FORGIVABLE / (FORGIVABLE - 1) / (1 - empty) - 1))


def empty_share(counts: np.ndarray) -> float:
    """The share of lines that are all zero, 0 unless they are few and stand together (in fours or more)."""
    empty = np.concatenate([[False], counts == 0])
    runs = np.count_nonzero(np.diff(empty) & ~empty[:-1])
    count = np.count_nonzero(empty)
    return count / counts.size if 4 * runs <= count <= 0.3 * counts.size else 0.0


def forgiven(evidence: Evidence, found: Detection) -> int:
    """The zeros among the kept weights, where they are few enough to be there by chance; otherwise 0.

    Few: one in eight of the rows that are not empty (an all-zero block is one more accident). A structure is
    what the pruner meant, and kernels gain by knowing it, even where a bitmap with the accidents is smaller.
    """
    zeros = found.packed.kept_count() - evidence.count
    if not 0 < zeros <= most_forgiven(evidence):
        return 0
    return zeros


def believable(packed: Packed) -> bool:
    """Whether the vectors of HP and N:M hold their n weights as often as they should."""
    if not isinstance(packed, PackedHP):
        return True
    structure: Any = packed.structure
    whole = packed.columns.shape[1] // structure.v
    return plausible(filling(np.count_nonzero(packed.values[:, :whole], axis=2)), structure.n)


FINDERS: tuple[Callable[[Evidence, int], Iterable[Structure]], ...] = (
    find_nm,
    lambda evidence, best: find_bp(evidence, "columns", best),
    lambda evidence, best: find_bp(evidence, "rows", best),
    find_block,
    find_pp,
    lambda evidence, best: find_bppp(evidence, "columns", best),
    lambda evidence, best: find_bppp(evidence, "rows", best),
    find_hp,
    find_banked,
)


"""From the zeros and the bits to beat to candidates; each is tried on the matrix before it is believed."""


def least_bits(structure: Structure, evidence: Evidence) -> int:
    """No more than the exact size: `bits(shape)` counts short blocks of these kinds as if they were full."""
    if isinstance(structure, PP | BPPP | Block):
        return evidence.count * evidence.width
    return structure.bits(evidence.shape, evidence.width)


def order(bits: int, structure: Structure) -> tuple[int, int, tuple[int, ...]]:
    """Sorts by bits, then by kind, then by the parameters from v and p to B."""
    numbers = [x for _, x in sorted(structure.params().items(), reverse=True) if isinstance(x, int)]
    return bits, TIES.index(type(structure)), tuple(numbers)


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
