"""Finds PP and BP + PP: the size of the blocks, the number of patterns and what they keep."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from espalier.sparsity.backbone import BPPP
from espalier.sparsity.block import cut
from espalier.sparsity.columns import Axis
from espalier.sparsity.evidence import Evidence
from espalier.sparsity.heights import steepest
from espalier.sparsity.hierarchical import in_blocks
from espalier.sparsity.partition import compact, seen_columns
from espalier.sparsity.patterns import PP
from espalier.sparsity.structure import ceil_div, index_bits

LARGEST = 128
MOST_PATTERNS = 16


def find_pp(evidence: Evidence, best: int) -> Iterator[PP]:
    """For each size whose blocks are balanced and alike, the patterns that cover them."""
    for p in range(2, min(*evidence.shape, LARGEST) + 1):
        if balanced(evidence, p, best) and alike(evidence, p):
            found = cluster(evidence, p)
            if found is not None:
                yield found


def balanced(evidence: Evidence, p: int, best: int) -> bool:
    """Whether whole blocks hold about one number of weights (a few may be zero), few enough for `best`."""
    sums = evidence.corners[::p, ::p]
    counts = (sums[1:, 1:] - sums[:-1, 1:] - sums[1:, :-1] + sums[:-1, :-1]).reshape(-1)
    counts = counts[counts > 0]
    if counts.size < 2:
        return False
    low, high = np.quantile(counts, (0.25, 0.95))
    return bool(high - low <= max(1.0, 0.12 * high)) and evidence.count * evidence.width < best


def whole_blocks(evidence: Evidence, p: int, limit: int) -> np.ndarray:
    """Up to `limit` whole blocks that are not zero, spread over the matrix: bool `[count, p * p]`."""
    tall, wide = evidence.shape[0] // p, evidence.shape[1] // p
    cells = evidence.used[: tall * p, : wide * p].reshape(tall, p, wide, p)
    step = max(tall * wide // limit, 1)
    row, column = np.divmod(np.arange(0, tall * wide, step), wide)
    blocks = cells[row, :, column].reshape(-1, p * p)
    return blocks[blocks.any(axis=1)]


def alike(evidence: Evidence, p: int) -> bool:
    """Whether most blocks have a twin: another block with nearly the same zeros."""
    blocks = np.packbits(whole_blocks(evidence, p, 32), axis=1)
    if len(blocks) < 2:
        return False
    sizes = np.bitwise_count(blocks).sum(axis=1, dtype=np.int64)
    common = np.bitwise_count(blocks[:, None] & blocks).sum(axis=2, dtype=np.int64)
    overlap = common / np.minimum(sizes[:, None], sizes)
    np.fill_diagonal(overlap, 0.0)
    density = float(sizes.max()) / p**2
    return bool(np.quantile(overlap.max(axis=1), 0.4) > (1.0 + density) / 2)


def cluster(evidence: Evidence, p: int) -> PP | None:
    """The patterns as unions of blocks with nearly the same zeros; None where there are too many."""
    cells = np.ascontiguousarray(cut(evidence.used, p, p)).reshape(-1, p * p)
    packed = np.packbits(cells, axis=1)
    keys = packed.view(np.dtype((np.void, packed.shape[1]))).reshape(-1)
    _, first, counts = np.unique(keys, return_index=True, return_counts=True)
    kinds = cells[first].astype(np.float32)
    sizes = kinds.sum(axis=1)
    density = float(sizes.max()) / p**2
    patterns = np.zeros((0, p * p), np.float32)
    for kind in np.lexsort((-counts, -sizes)):
        if sizes[kind] == 0:
            continue
        overlap = patterns @ kinds[kind]
        alike = np.flatnonzero(overlap >= (1.0 + density) / 2 * sizes[kind])
        if alike.size:
            best = alike[overlap[alike].argmax()]
            patterns[best] = np.maximum(patterns[best], kinds[kind])
        elif len(patterns) == MOST_PATTERNS:
            return None
        else:
            patterns = np.vstack([patterns, kinds[kind]])
    rows = patterns.reshape(-1, p, p)
    if (rows == rows[:, :1]).all():  # whole columns: that is HP with g = p
        return None
    return PP(p, len(patterns), int(patterns.sum(axis=1).max()))


def find_bppp(evidence: Evidence, axis: Axis, best: int) -> Iterator[BPPP]:
    """PP in the used columns of each likely height, side by side."""
    seen = evidence if axis == "columns" else evidence.turned
    rows, columns = seen.shape
    for height in steepest(seen):
        kc = int(seen.seen(height).max())
        lists = ceil_div(rows, height) * kc * index_bits(columns)
        if kc == columns or lists + seen.count * seen.width >= best:
            continue
        used = in_blocks(seen.used, height)
        order, counts = seen_columns(used.sum(axis=1, dtype=np.int32), columns)
        inside = np.ascontiguousarray(compact(used, order, counts).reshape(-1, kc)[:rows])
        for pp in find_pp(Evidence(inside, seen.width), best - lists):
            yield BPPP(height, kc, pp.p, pp.m, pp.kept, axis)
