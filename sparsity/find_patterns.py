"""Finds PP and BP + PP: the size of the blocks, the number of patterns and what they keep."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from espalier.sparsity.alignment import sound_strips
from espalier.sparsity.backbone import BPPP
from espalier.sparsity.block import cut
from espalier.sparsity.columns import Axis
from espalier.sparsity.evidence import Evidence
from espalier.sparsity.heights import steepest
from espalier.sparsity.hierarchical import in_blocks
from espalier.sparsity.partition import compact, seen_columns
from espalier.sparsity.patterns import PP, clusters, distinct
from espalier.sparsity.structure import ceil_div, index_bits

SMALLEST, LARGEST = 4, 128  # fewer cells hold too few patterns to tell them from chance
MOST_PATTERNS = 16


def find_pp(evidence: Evidence, best: int, broken: np.ndarray | None = None) -> Iterator[PP]:
    """For each size whose blocks are balanced and alike, the patterns that cover them.

    broken: bool `[N]`, rows to look past.
    """
    broken = np.zeros(evidence.shape[0], bool) if broken is None else broken
    if evidence.count * evidence.width >= best:
        return
    for p in range(SMALLEST, min(*evidence.shape, LARGEST) + 1):
        strips = sound_strips(broken, p)
        if strips.size and balanced(evidence, p, strips) and alike(evidence, p, strips):
            found = cluster(evidence, p, strips)
            if found is not None:
                yield found


def balanced(evidence: Evidence, p: int, strips: np.ndarray) -> bool:
    """Whether whole blocks (of the first strips) hold about one number of weights; a few may be zero."""
    above = evidence.corners[strips[:32] * p, ::p]
    below = evidence.corners[strips[:32] * p + p, ::p]
    counts = np.diff(below - above, axis=1).reshape(-1)
    counts = counts[counts > 0]
    if counts.size < 2:
        return False
    counts.sort()
    low, high = int(counts[counts.size // 4]), int(counts[counts.size * 19 // 20])
    return high - low <= max(1.0, 0.12 * high)


def whole_blocks(evidence: Evidence, p: int, strips: np.ndarray, limit: int) -> np.ndarray:
    """About `limit` whole blocks that are not zero, spread over the strips: bool `[count, p * p]`."""
    tall, wide = evidence.shape[0] // p, evidence.shape[1] // p
    cells = evidence.used[: tall * p, : wide * p].reshape(tall, p, wide, p)
    step = max(len(strips) * wide // limit, 1)
    row, column = np.divmod(np.arange(0, len(strips) * wide, step), wide)
    blocks = cells[strips[row], :, column].reshape(-1, p * p)
    return blocks[blocks.any(axis=1)]


def alike(evidence: Evidence, p: int, strips: np.ndarray) -> bool:
    """Whether most blocks have a twin: another block with nearly the same zeros."""
    blocks = np.packbits(whole_blocks(evidence, p, strips, 24), axis=1)
    if len(blocks) < 2:
        return False
    words = np.pad(blocks, ((0, 0), (0, -blocks.shape[1] % 8))).view(np.uint64)
    common = np.bitwise_count(words[:, None] & words).sum(axis=2, dtype=np.float64)
    sizes = common.diagonal().copy()
    overlap = common / np.minimum(sizes[:, None], sizes)
    np.fill_diagonal(overlap, 0.0)
    twins = overlap.max(axis=1) > (1.0 + sizes.max() / p**2) / 2
    return bool(2 * np.count_nonzero(twins) >= len(blocks))


def cluster(evidence: Evidence, p: int, strips: np.ndarray) -> PP | None:
    """The usual cells of whole blocks that are alike; None where there are too many sets of them."""
    tall, wide = evidence.shape[0] // p, evidence.shape[1] // p
    blocks = cut(evidence.used[: tall * p, : wide * p], p, p)[strips]
    kinds, _, counts = distinct(np.ascontiguousarray(blocks).reshape(-1, p * p))
    members = clusters(kinds, counts, MOST_PATTERNS + 1)
    if not 0 < len(members) <= MOST_PATTERNS:
        return None
    uses = np.stack([counts[some] @ kinds[some] for some in members])
    sizes = np.array([counts[some].sum() for some in members])
    usual = uses > 0.3 * sizes[:, None]
    if shared_rows(usual.reshape(-1, p, p)):
        return None
    return PP(p, len(members), int(usual.sum(axis=1).max()))


def shared_rows(patterns: np.ndarray) -> bool:
    """Whether the patterns are HP with g > 1 seen as PP: equal rows in groups, one count in every row."""
    p = patterns.shape[1]
    if len(np.unique(patterns.sum(axis=2))) > 1:
        return False
    groups = (patterns.reshape(-1, p // g, g, p) for g in range(2, p + 1) if p % g == 0)
    return any(bool((rows == rows[:, :, :1]).all()) for rows in groups)


def find_bppp(evidence: Evidence, axis: Axis, best: int) -> Iterator[BPPP]:
    """PP in the used columns of each likely height, side by side."""
    seen = evidence if axis == "columns" else evidence.turned
    rows, columns = seen.shape
    heights = [(b, seen.seen(b)) for b in steepest(seen)]
    usual = {(b, int(np.quantile(counts, 0.9, method="lower"))) for b, counts in heights}
    for height, kc in sorted({(b, int(counts.max())) for b, counts in heights} | usual):
        lists = ceil_div(rows, height) * kc * index_bits(columns)
        if kc == columns or lists + seen.count * seen.width >= best:
            continue
        used = in_blocks(seen.used, height)
        order, counts = seen_columns(used.sum(axis=1, dtype=np.int32), kc)
        inside = np.ascontiguousarray(compact(used, order, counts).reshape(-1, kc)[:rows])
        broken = np.repeat(counts < kc, height)[:rows]
        for pp in find_pp(Evidence(inside, seen.width), best - lists, broken):
            yield BPPP(height, kc, pp.p, pp.m, pp.kept, axis)
