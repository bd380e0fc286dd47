"""Where the sets of kept columns change between rows: the heights B that blocks may have."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np

from espalier.sparsity.evidence import Evidence
from espalier.sparsity.structure import ceil_div, index_bits

_HEIGHTS: WeakKeyDictionary[Evidence, list[int]] = WeakKeyDictionary()
"""What is known of evidence that is still looked at: several finders ask."""


def steepest(evidence: Evidence) -> list[int]:
    """The tallest height with the largest jump, if that is no small one, and all rows as one block."""
    rows, columns = evidence.shape
    jumps = {b: jump(evidence, b) for b in heights(evidence) if b < rows}
    top = max(jumps.values(), default=0)
    likely = [b for b in jumps if top > 0.05 * columns and 10 * jumps[b] >= 9 * top]
    return [*likely[:1], rows]


def jump(evidence: Evidence, height: int, step: int = 1) -> int:
    """By how much more the columns of the fullest block grow `step` rows after this height than up to it."""
    before, here, after = (int(evidence.seen(height + rows).max()) for rows in (-step, 0, step))
    return after - 2 * here + before


def heights(evidence: Evidence) -> list[int]:
    """Block heights worth a closer look, the tallest first.

    Inside a true block the union of the rows' columns soon stops growing with the height; one row more and a
    second block's columns join in. So a true height (and its divisors) is followed by a jump, where random
    zeros grow ever more slowly. Heights that a taller one equals in columns are left out: taller is smaller.
    The others are those with the largest jumps (from row to row, and from group to group where rows share
    their zeros), those whose blocks all have as many columns, and the cheapest as BP, or as lists and a mask
    of each group.
    """
    if evidence not in _HEIGHTS:
        _HEIGHTS[evidence] = _likely(evidence)
    return _HEIGHTS[evidence]


def _likely(evidence: Evidence) -> list[int]:
    rows, columns = evidence.shape
    tried = {*range(1, min(rows, 257)), *range(256, rows, 64), rows}
    tried |= {b for b in range(257, rows) if rows % b == 0}
    size = {b: int(evidence.seen(b).max()) for b in tried}
    records, least = [], columns + 1
    for b in sorted(tried - {1} if rows > 1 else tried, reverse=True):
        if size[b] < least:
            least = size[b]
            records.append(b)
    inner = [b for b in records if 1 < b < rows]
    jumps = {b: jump(evidence, b) for b in inner}
    steep = sorted(inner, key=lambda b: -jumps[b])[:2]
    steep += [b for b in inner if jumps[b] > 0 and 2 * jumps[b] >= jumps[steep[0]]][:4]
    cheap = sorted(
        inner, key=lambda b: size[b] * (ceil_div(rows, b) * index_bits(columns) + rows * evidence.width)
    )[:2]
    g = evidence.periods(min(rows, 64))[0]
    if g > 1:
        whole = [b for b in inner if b % g == 0 and g < b < rows - g]
        steep += sorted(whole, key=lambda b: -jump(evidence, b, g))[:2]
    even = [b for b in inner if 2 * b <= rows and np.ptp(evidence.seen(b)[: rows // b]) == 0][:2]
    groups = ceil_div(rows, g)
    masked = sorted(inner, key=lambda b: size[b] * (ceil_div(rows, b) * index_bits(columns) + groups))[:3]
    return sorted({*records[:1], *steep, *even, *cheap, *masked}, reverse=True)
