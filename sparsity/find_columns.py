"""Finds BP: the height of its blocks and how many columns each keeps."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from espalier.sparsity.columns import BP, Axis
from espalier.sparsity.evidence import Evidence
from espalier.sparsity.heights import heights, trusted
from espalier.sparsity.structure import ceil_div, index_bits


def find_bp(evidence: Evidence, axis: Axis) -> Iterator[BP]:
    """For each likely height the kc with the fewest bits, weights outside it stored apart."""
    seen = evidence if axis == "columns" else evidence.turned
    for height in {b for part in trusted(seen) for b in heights(part)}:
        yield BP(height, best_kc(seen, height), axis)


def best_kc(evidence: Evidence, height: int) -> int:
    """The kc for which packed columns and the weights outside them take the fewest bits."""
    rows, columns = evidence.shape
    starts = np.arange(0, rows, height)
    users = np.add.reduceat(evidence.used, starts, axis=0, dtype=np.int32)
    users.sort(axis=1)
    outside = np.concatenate([[0], np.cumsum(users.sum(axis=0))])[::-1]  # by kc = 0..K
    kc = np.arange(columns + 1)
    bits = kc * (ceil_div(rows, height) * index_bits(columns) + rows * evidence.width)
    bits = np.where(
        outside <= evidence.stray_limit, bits + outside * evidence.stray_bits, np.iinfo(np.int64).max
    )
    return max(int(bits.argmin()), 1)
