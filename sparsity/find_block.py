"""Finds block pruning: the size of its blocks."""

from __future__ import annotations

from collections.abc import Iterator

from espalier.sparsity.block import Block
from espalier.sparsity.evidence import Evidence

SIDES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 96, 100, 128)


def find_block(evidence: Evidence) -> Iterator[Block]:
    """Block sizes by the fewest bits: first each side alone, then the best few sides together."""
    tall = sorted((packed_bits(evidence, side, 1), side) for side in SIDES if side <= evidence.shape[0])
    wide = sorted((packed_bits(evidence, 1, side), side) for side in SIDES if side <= evidence.shape[1])
    pairs = {(bh, bw) for _, bh in tall[:4] for _, bw in wide[:4]} - {(1, 1)}
    for bh, bw in sorted(pairs, key=lambda pair: packed_bits(evidence, *pair))[:3]:
        yield best_block(evidence, bh, bw)


def packed_bits(evidence: Evidence, bh: int, bw: int) -> int:
    return best_block(evidence, bh, bw).bits(evidence.shape, evidence.width)


def best_block(evidence: Evidence, bh: int, bw: int) -> Block:
    """Every block whose non-zeros are cheaper inside than apart, within the limit of what may be apart."""
    counts = evidence.block_counts(bh, bw).reshape(-1)
    counts = counts[counts > 0]
    poor = counts[counts * evidence.stray_bits < bh * bw * evidence.width]
    apart = len(poor) if poor.sum() <= evidence.stray_limit else 0
    return Block(bh, bw, max(len(counts) - apart, 1))
