"""`espalier run`: runs and times a package."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from espalier.cli.options import (
    FILE,
    Choice,
    Count,
    Output,
    common,
    input_shapes_option,
    output_option,
    threads_option,
)
from espalier.errors import UsageError
from espalier.files import check_overwrite
from espalier.shapes import format_shape

if TYPE_CHECKING:
    from espalier.runtime.inputs import FillMode

LOG = logging.getLogger(__name__)

SUMMARY = ("mean", "median", "max", "min", "std")


@click.command(short_help="Run a package on data, and time it.")
@click.argument("package", metavar="PKG.tar", type=FILE)
@click.option("-i", "--inputs", metavar="IN.npz", type=FILE, help="One array an input, under its ONNX name.")
@output_option("OUT.npz", "Where to write one array an output, under its ONNX name.")
@click.option(
    "--fill-mode",
    type=Choice("random", "zeros", "ones"),
    help="What to run on where there is no IN.npz. Default: random.",
)
@click.option("--seed", type=Count(0, 2**63 - 1), default=0, help="Seed of --fill-mode random. Default: 0.")
@input_shapes_option
@click.option("--print-time", is_flag=True, help="Print a summary of the times.")
@click.option("--repeat", type=Count(1, 10**9), default=1, help="Times to measure. Default: 1.")
@click.option(
    "--number", type=Count(1, 10**9), default=1, help="Runs whose mean is one measured time. Default: 1."
)
@click.option("--profile", is_flag=True, help="Print a table by layer of one run's times.")
@click.option(
    "--device",
    type=Choice("cpu", "functional", "rtl"),
    help="What runs it: cpu; for an FPGA the functional simulator (default) or the RTL by Verilator.",
)
@threads_option
@common
def command(
    package: Path,
    inputs: Path | None,
    path: Path | None,
    fill_mode: FillMode | None,
    seed: int,
    input_shapes: dict[str, tuple[int, ...]] | None,
    print_time: bool,
    repeat: int,
    number: int,
    profile: bool,
    device: str | None,
    threads: int | None,
    output: Output,
) -> None:
    """Runs PKG.tar on the arrays of IN.npz, or on made-up ones, and times it.

    Without --input-shapes made-up inputs have batch 1 and sequence 128, as far as the package allows.
    A package is checked for damage, but its code runs with your rights: run those that you trust.
    """
    from espalier.arrays import read_npz, write_npz
    from espalier.cli.profile import profile_rows, tell_profile
    from espalier.package import Package
    from espalier.runtime.inputs import dim_sizes, fill_inputs
    from espalier.runtime.peak import peak

    if inputs is not None and (fill_mode is not None or input_shapes is not None):
        given = "--fill-mode" if fill_mode is not None else "--input-shapes"
        raise UsageError(f"-i and {given} exclude each other", hint=f"leave out one of -i and {given}")
    if path is not None:
        check_overwrite(path, package, inputs)
    loaded = Package.load(package)
    executor = loaded.executor(threads=threads, device=device)
    if inputs is not None:
        arrays = read_npz(inputs)
    else:
        arrays = fill_inputs(executor.signature, fill_mode or "random", seed, input_shapes)
    LOG.info("running %s for %s on %s threads", package, loaded.metadata.target.name, threads or "all")
    outputs = executor.run(arrays)
    timed = print_time or output.json or repeat > 1 or number > 1
    times = executor.benchmark(arrays, repeat=repeat, number=number).to_dict() if timed else {}
    calls = executor.profile(arrays) if profile else []
    if path is not None:
        write_npz(path, outputs)
        output.note(f"wrote {path}")
    result: dict[str, Any] = {
        "outputs": {
            name: {"shape": list(array.shape), "dtype": array.dtype.name} for name, array in outputs.items()
        },
        "time_ms": times,
    }
    if executor.how != "measured":
        result["how"] = executor.how
    most = peak(threads)
    if profile:
        sizes = dim_sizes(executor.signature, arrays)
        result["profile"] = profile_rows(calls, loaded.metadata.layers, sizes, most)
        result["peak"] = most.to_dict()

    def text() -> None:
        rows = [[name, format_shape(array.shape), array.dtype.name] for name, array in outputs.items()]
        output.table(("output", "shape", "dtype"), rows)
        if profile:
            click.echo()
            tell_profile(result["profile"], most, output)
        if print_time:
            click.echo("\nExecution time summary:")
            if executor.how != "measured":
                click.echo(f"(the accelerator's, {executor.how}; the host's steps are not counted)")
            click.echo("".join(f"{f'{name} (ms)':^13}" for name in SUMMARY))
            click.echo("".join(f"{times[name]:^13.4f}" for name in SUMMARY))

    output.show(result, text)
