"""`espalier demo`: the main job, start to end, on the model inside the package."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from espalier.cli.options import FILE, Output, common

if TYPE_CHECKING:
    from espalier.demo.job import Demo


@click.command(short_help="Show the main job on the model inside the package.")
@click.option(
    "-o",
    "--output",
    "folder",
    metavar="DIR",
    type=FILE,
    default=Path("espalier-demo"),
    help="Where to leave the package, all results and report.html. Default: espalier-demo.",
)
@common
def command(folder: Path, output: Output) -> None:
    """Takes a small Vision Transformer of handwritten digits, pruned to 90 %, through the whole of Espalier.

    Inspects it, compiles it for this CPU, runs it on 360 test images, checks the results against ONNX
    Runtime, times it against the dense model, and ranks the devices known for a latency constraint.
    """
    from espalier.demo.job import demo

    with output.step("starting") as log:

        def progress(text: str) -> None:
            log(text)
            if not text.startswith("round"):
                output.note(text)

        found = demo(folder, log=progress)
    output.show(found.to_dict(), lambda: _text(found, output))


def _text(found: Demo, output: Output) -> None:
    """The findings for people, one paragraph a step."""
    from espalier.bench.compare import COLUMNS

    weights = found.inspection.weights
    kinds = Counter(weight.label for weight in weights)
    zeros = sum(weight.sparsity * weight.shape[0] * weight.shape[1] for weight in weights)
    total = sum(weight.shape[0] * weight.shape[1] for weight in weights)
    click.echo(f"\nweights   {len(weights)}, of which {100 * zeros / total:.1f} % are zeros")
    for label, count in kinds.most_common():
        click.echo(f"          {count} x {label}")

    metadata = found.compilation.package.metadata
    target, size = metadata.target, found.package.stat().st_size
    click.echo(
        f"compiled  for {target.name} ({target.mcpu}) in {found.compilation.seconds:.1f} s: "
        f"{found.package}, {size:,} bytes"
    )
    for name, count in Counter(layer.kernel for layer in metadata.layers).most_common():
        click.echo(f"          {count} x {name}")

    check = found.check
    click.echo(
        f"checked   {check.samples} test images: {100 * check.accuracy:.2f} % right, {check.reference} "
        f"{100 * check.reference_accuracy:.2f} %; same answer on {check.same_predictions},\n"
        f"          largest difference {check.max_error:.1e} of the largest output\n"
    )
    click.echo("latency, measured, all interleaved:")
    output.table(COLUMNS, found.bench.rows())
    for line in found.bench.remarks():
        click.echo(line)
    click.echo()

    ranking = found.ranking
    rows = [
        [
            "->" if device.name == ranking.best else "",
            device.name,
            f"{device.latency_ms:.3f}",
            f"{device.low_ms:.3f} to {device.high_ms:.3f}",
            device.how,
            "yes" if device.meets_lc else "no",
        ]
        for device in ranking.devices
    ]
    click.echo(f"devices for {ranking.lc_ms:g} ms, half of the dense model's time in ONNX Runtime here:")
    output.table(("", "device", "ms", "interval", "how", "meets it"), rows)
    if ranking.best is None:
        click.echo("no device is sure to meet it")
    else:
        click.echo(f"no price is known; {ranking.best} is the least powerful that meets it")
    click.echo(f"\nreport: {found.report}")
