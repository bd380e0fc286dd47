"""`espalier report`: one HTML file out of what other verbs found."""

from __future__ import annotations

from pathlib import Path

import click

from espalier.cli.options import FILE, Output, common, output_option


@click.command(short_help="Make one HTML file of other verbs' results.")
@click.argument("folder", metavar="DIR", type=FILE)
@output_option("FILE.html", "Where to write it. Default: DIR/report.html.")
@common
def command(folder: Path, path: Path | None, output: Output) -> None:
    """Makes one self-contained HTML file of the results in DIR.

    A result is the --json output of a verb under the verb's name: inspect.json, compile.json, bench.json,
    rank.json; `espalier demo -o DIR` leaves all of them.
    """
    from espalier.report.render import write_report

    written = write_report(folder, path)
    output.show({"report": str(written)}, lambda: click.echo(f"wrote {written}"))
