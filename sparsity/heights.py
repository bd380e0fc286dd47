"""Where the sets of kept columns change between rows: the heights B that blocks may have."""

from __future__ import annotations

from espalier.sparsity.evidence import Evidence
from espalier.sparsity.structure import ceil_div, index_bits


def steepest(evidence: Evidence) -> list[int]:
    """The two likeliest heights: the tallest of those with the largest jump, and all rows as one block."""
    rows = evidence.shape[0]
    inner = [b for b in heights(evidence) if b < rows]
    jumps = [int(evidence.seen(b + 1).max()) - int(evidence.seen(b).max()) for b in inner]
    return [*(b for b, jump in zip(inner, jumps, strict=True) if jump == max(jumps)), rows][:2]


def heights(evidence: Evidence) -> list[int]:
    """Block heights worth a closer look, the tallest first.

    Inside a true block the union of the rows' columns soon stops growing with the height; one row more and a
    second block's columns join in. So a true height (and its divisors) is followed by a jump, where random
    zeros grow ever more slowly. Heights that a taller one equals in columns are left out: taller is smaller.
    """
    rows, columns = evidence.shape
    tried = {*range(1, min(rows, 257)), *range(256, rows, 64), rows}
    tried |= {b for b in range(257, rows) if rows % b == 0}
    size = {}
    for b in tried:
        for near in (b - 1, b, b + 1):
            if 1 <= near <= rows and near not in size:
                size[near] = int(evidence.seen(near).max())
    records, least = [], columns + 1
    for b in sorted(tried - {1} if rows > 1 else tried, reverse=True):
        if size[b] < least:
            least = size[b]
            records.append(b)
    inner = [b for b in records if 1 < b < rows]
    jump = {b: size[b + 1] - 2 * size[b] + size[b - 1] for b in inner}
    steep = sorted(inner, key=lambda b: -jump[b])[:2]
    steep += [b for b in inner if jump[b] > 0 and 2 * jump[b] >= jump[steep[0]]][:4]
    cheap = sorted(
        inner, key=lambda b: size[b] * (ceil_div(rows, b) * index_bits(columns) + rows * evidence.width)
    )[:2]
    return sorted({*records[:1], *steep, *cheap}, reverse=True)
