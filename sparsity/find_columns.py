"""Finds BP: the height of its blocks and how many columns each keeps."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from espalier.sparsity.columns import BP, Axis
from espalier.sparsity.evidence import Evidence
from espalier.sparsity.heights import heights
from espalier.sparsity.structure import ceil_div, index_bits


def find_bp(evidence: Evidence, axis: Axis, best: int) -> Iterator[BP]:
    """For each likely height the kc with the fewest bits, weights outside it stored apart."""
    seen = evidence if axis == "columns" else evidence.turned
    for height in {b for part in seen.trusted for b in heights(part)}:
        if BP(height, least_kc(seen, height)).bits(seen.shape, seen.width) < best:
            yield BP(height, best_kc(seen, height), axis)


def least_kc(evidence: Evidence, height: int) -> int:
    """No kc below this one can do: each used column beyond kc is at least one weight outside."""
    used = np.sort(evidence.seen(height))[::-1]
    beyond = np.cumsum(used) - used * np.arange(1, len(used) + 1)  # when kc is the i-th largest
    last = int(np.searchsorted(beyond, evidence.stray_limit, side="right")) - 1
    spread = (evidence.stray_limit - int(beyond[last])) // (last + 1)
    return max(int(used[last]) - spread, 1)


def best_kc(evidence: Evidence, height: int) -> int:
    """The kc for which packed columns and the weights outside them take the fewest bits."""
    rows, columns = evidence.shape
    users = np.add.reduceat(evidence.used, np.arange(0, rows, height), axis=0, dtype=np.int32)
    users.sort(axis=1)
    outside = np.concatenate([[0], np.cumsum(users.sum(axis=0))])[::-1]  # by kc = 0..K
    bits = np.arange(columns + 1) * (ceil_div(rows, height) * index_bits(columns) + rows * evidence.width)
    bits += outside * evidence.stray_bits
    bits[outside > evidence.stray_limit] = np.iinfo(np.int64).max
    return max(int(bits.argmin()), 1)
