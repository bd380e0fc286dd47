"""Where the sets of kept columns change between rows: the heights B that blocks may have."""

from __future__ import annotations

import numpy as np

from espalier.sparsity.evidence import Evidence


def heights(evidence: Evidence, *, most: int = 6) -> list[int]:
    """Block heights worth a closer look, tallest first.

    Inside a true block the union of the rows' columns soon stops growing with the height; one row more and a
    second block's columns join in. So a true height (and its divisors) is followed by a jump, where random
    zeros grow ever more slowly. Heights that a taller one equals in columns are left out: taller is smaller.
    """
    rows = evidence.shape[0]
    if rows <= 2:
        return [rows]
    candidates = {*range(1, min(rows, 256) + 1), *(b for b in range(256, rows, 64)), rows}
    candidates |= {b for b in range(257, rows) if rows % b == 0}
    wanted = sorted(candidates)
    around = {b + d for b in wanted for d in (-1, 0, 1) if 1 <= b + d <= rows}
    size = {b: int(evidence.seen(b).max(initial=0)) for b in around}
    records, least = [], None
    for b in reversed(wanted):
        if b > 1 and (least is None or size[b] < least):
            least = size[b]
            records.append(b)
    inner = [b for b in records if b < rows]
    jump = {b: size[b + 1] - 2 * size[b] + size[b - 1] for b in inner}
    top = max(jump.values(), default=0)
    steep = [b for b in inner if jump[b] > 0 and 2 * jump[b] >= top]
    cheap = sorted(inner, key=lambda b: size[b] * (-(-rows // b) * 10 + rows * evidence.width))
    chosen = {*steep[:most], *sorted(inner, key=lambda b: -jump[b])[:2], *cheap[:2]}
    return [rows, *sorted(chosen, reverse=True)]


def trusted(evidence: Evidence) -> list[Evidence]:
    """The evidence whole, and without the few rows that have more non-zeros than the rest.

    A row with more than every vector holds has a weight outside the structure, which would hide it.
    """
    counts = evidence.row_counts
    usual = int(np.quantile(counts, 0.95, method="lower"))
    odd = np.flatnonzero(counts > usual)
    return [evidence, evidence.without(odd)] if odd.size else [evidence]
