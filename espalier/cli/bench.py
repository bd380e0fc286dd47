"""`espalier bench`: times models in Espalier and in every other runtime that is installed."""

from __future__ import annotations

from pathlib import Path

import click

from espalier.bench.peers import PEERS
from espalier.cli.options import FILE, Count, Names, Output, common, input_shapes_option


@click.command(short_help="Time models in Espalier and in the other runtimes.")
@click.argument("models", metavar="MODEL.onnx...", type=FILE, nargs=-1, required=True)
@click.option(
    "--peers",
    metavar="A,B",
    type=Names(*PEERS),
    help=f"Of {', '.join(PEERS)}. Default: all that are installed.",
)
@click.option("--threads", metavar="N", type=Count(1, 1024), default=1, help="Threads for each. Default: 1.")
@input_shapes_option
@click.option("--repeat", metavar="N", type=Count(3, 10**6), default=60, help="Samples of each. Default: 60.")
@common
def command(
    models: tuple[Path, ...],
    peers: tuple[str, ...] | None,
    threads: int,
    input_shapes: dict[str, tuple[int, ...]] | None,
    repeat: int,
    output: Output,
) -> None:
    """Times each MODEL.onnx in Espalier and in the other runtimes, all interleaved in one run.

    A runtime that takes long gets fewer samples. `error` is the largest difference from ONNX Runtime's
    output, over the largest output there. Timings mean little while something else uses the machine.
    """
    from espalier.bench.compare import COLUMNS, bench

    with output.step("loading") as log:
        result = bench(
            models, peers=peers, threads=threads, input_shapes=input_shapes, repeat=repeat, log=log
        )

    def text() -> None:
        output.table(COLUMNS, result.rows())
        click.echo()
        for line in result.remarks():
            click.echo(line)

    output.show(result.to_dict(), text)
