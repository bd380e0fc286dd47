"""Finds block pruning: the size of its blocks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from espalier.sparsity.block import Block
from espalier.sparsity.evidence import Evidence

SIDES = (*range(1, 33), *range(36, 129, 4))


def find_block(evidence: Evidence, best: int) -> Iterator[Block]:
    """Block sizes by the fewest bits: first each side alone, then the best few sides together.

    Columns of blocks of one count in all block rows that are not empty are BP (of one row: BP by rows).
    """
    tall = sorted(
        (Block(side, 1, int(evidence.seen(side).sum())).bits(evidence.shape, evidence.width), side)
        for side in SIDES
        if side <= evidence.shape[0]
    )
    wide = sorted(
        (Block(1, side, int(evidence.turned.seen(side).sum())).bits(evidence.shape, evidence.width), side)
        for side in SIDES
        if side <= evidence.shape[1]
    )
    pairs = {(bh, bw) for _, bh in [*tall[:2], (0, 1)] for _, bw in [*wide[:2], (0, 1)]} - {(1, 1)}
    likely = (pair for pair in pairs if least_bits(evidence, *pair) < best)
    found = sorted((best_block(evidence, bh, bw) for bh, bw in likely), key=lambda pair: pair[0])
    yield from (block for bits, block in found[:2] if bits < best)


def least_bits(evidence: Evidence, bh: int, bw: int) -> int:
    """No more than the values take: a block stores no fewer cells than its rows or columns alone would."""
    cells = max(bh * int(evidence.seen(bh).sum()), bw * int(evidence.turned.seen(bw).sum()))
    apart = evidence.stray_limit * bh * bw
    short = evidence.shape[0] * bw + evidence.shape[1] * bh  # cells of blocks that reach over the edge
    return (cells - apart - short) * evidence.width


def best_block(evidence: Evidence, bh: int, bw: int) -> tuple[int, Block]:
    """(bits, structure): every block whose non-zeros are cheaper inside than apart, if few are apart."""
    rows, columns = evidence.shape
    counts = evidence.block_counts(bh, bw)
    tall = np.minimum(bh, rows - np.arange(counts.shape[0]) * bh)
    wide = np.minimum(bw, columns - np.arange(counts.shape[1]) * bw)
    cells = np.outer(tall, wide)
    kept = counts * evidence.stray_bits >= cells * evidence.width
    outside = int(counts[~kept].sum())
    if outside > evidence.stray_limit or not kept.any():
        kept, outside = counts > 0, 0
    block = Block(bh, bw, int(np.count_nonzero(kept)))
    lines = kept.sum(axis=1) if bw == 1 else kept.sum(axis=0)
    if min(bh, bw) == 1 and len(np.unique(lines[lines > 0])) == 1:
        return 1 << 62, block
    values = int(cells[kept].sum()) * evidence.width
    return block.index_bits(evidence.shape) + values + outside * evidence.stray_bits, block
