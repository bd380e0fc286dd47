"""The table of `espalier run --profile`: every kernel of a run, its layer, and the share of peak."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from espalier.cli.options import Output
    from espalier.package.metadata import LayerInfo
    from espalier.runtime.executor import CallTime
    from espalier.runtime.peak import Peak

SHARE = "of_peak"
FIXED = ("layer", "kernel", "ms", "gflops", SHARE)


def profile_rows(
    calls: Sequence[CallTime], layers: Sequence[LayerInfo], sizes: Mapping[str, int], peak: Peak
) -> list[dict[str, Any]]:
    """Every kernel of the run in the order of the calls, with its linear layer where it is one's.

    Layers are listed in the order in which they are called, and a kernel's function is named after it, where
    the call does not name its layer itself. A layer's work is two operations for each weight that is not zero
    and each token; `sizes` are the dimensions that say how many tokens.
    """
    waiting = list(layers)
    rows = []
    for call in calls:
        function = waiting[0].kernel.replace("-", "_") if waiting else ""
        named = waiting.pop(0) if waiting and call.kernel.rpartition("_")[0] == function else None
        name = call.layer or (named.name if named else None)
        row: dict[str, Any] = {"layer": name, "kernel": call.kernel, "ms": call.milliseconds}
        if named is not None and named.rows is not None and call.milliseconds > 0:
            tokens = math.prod(sizes[factor] if isinstance(factor, str) else factor for factor in named.rows)
            row["gflops"] = 2 * named.nonzeros * tokens / call.milliseconds / 1e6
            row[SHARE] = row["gflops"] / peak.gflops(integers=named.kernel.startswith("u8-"))
        rows.append(row | dict(call.figures))
    return rows


def tell_profile(rows: list[dict[str, Any]], peak: Peak, output: Output) -> None:
    """Prints the rows, and what the share of peak is of."""
    total = sum(row["ms"] for row in rows)
    shares = any(SHARE in row for row in rows)
    figures = list(dict.fromkeys(name for row in rows for name in row if name not in FIXED))
    columns = ("layer", "kernel", "ms", "share", *(["of peak"] if shares else []), *figures)
    table = [
        [
            row["layer"] or "",
            row["kernel"],
            row["ms"],
            f"{100 * row['ms'] / total:.1f} %",
            *([f"{100 * row[SHARE]:.1f} %" if SHARE in row else ""] if shares else []),
            *(row.get(name, "") for name in figures),
        ]
        for row in rows
    ]
    output.table(columns, [*table, ["all", "", total, "100.0 %", *("" for _ in columns[4:])]])
    if shares:
        click.echo(f"\nof peak: multiply-adds of weights that are not zero, against {peak.text()}")
