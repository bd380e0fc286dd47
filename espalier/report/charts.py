"""Bars with their spread, as inline SVG: no plotting library, no script, readable without a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

ROW = 26
LABEL = 250
WIDTH = 460
CLIP = 12.0
"""A bar longer than this many times the shortest is cut, so that one slow entry does not flatten the rest."""


@dataclass(frozen=True)
class Bar:
    """One row: a value, its spread, and whether it is ours (drawn in the accent colour)."""

    label: str
    value: float
    low: float
    high: float
    ours: bool = False


def bars(rows: Sequence[Bar], unit: str = "ms", limit: float | None = None) -> Markup:
    """The rows as one SVG; `limit` draws a vertical line (a constraint). Values are positive."""
    if not rows:
        return Markup("")
    longest = min(max(row.high for row in rows), CLIP * min(row.value for row in rows))
    longest = max(longest, limit or 0.0)
    scale = WIDTH / longest if longest > 0 else 0.0
    height = ROW * len(rows) + 8
    parts = [
        f'<svg class="bars" viewBox="0 0 {LABEL + WIDTH + 140} {height}" role="img" '
        f'xmlns="http://www.w3.org/2000/svg">'
    ]
    for index, row in enumerate(rows):
        parts.append(_row(row, index * ROW + 4, scale, unit))
    if limit is not None:
        x = LABEL + limit * scale
        parts.append(f'<line class="limit" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height}"/>')
    parts.append("</svg>")
    return Markup("".join(parts))


def _row(row: Bar, top: int, scale: float, unit: str) -> str:
    """Label, bar, whisker from low to high, value."""
    middle = top + ROW / 2 - 2
    length = min(row.value * scale, WIDTH)
    cut = " »" if row.value * scale > WIDTH else ""
    low, high = (LABEL + min(value * scale, WIDTH) for value in (row.low, row.high))
    kind = "ours" if row.ours else "other"
    value = f"{row.value:.3g} {unit}{cut}"
    return (
        f'<text class="label" x="{LABEL - 8}" y="{middle + 4:.1f}">{escape(row.label)}</text>'
        f'<rect class="{kind}" x="{LABEL}" y="{top}" width="{max(length, 1):.1f}" height="{ROW - 8}"/>'
        f'<line class="spread" x1="{low:.1f}" x2="{high:.1f}" y1="{middle:.1f}" y2="{middle:.1f}"/>'
        f'<text x="{max(LABEL + length, high) + 6:.1f}" y="{middle + 4:.1f}">{value}</text>'
    )
