"""`espalier compile`: from a model to a package."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from espalier.api import DTYPES
from espalier.cli.options import (
    FILE,
    Choice,
    Names,
    Output,
    Shapes,
    common,
    input_shapes_option,
    max_shape_option,
    model_argument,
    output_option,
    target_option,
    threads_option,
    tuning_records_option,
)
from espalier.errors import UsageError
from espalier.files import atomic, check_output, check_overwrite

if TYPE_CHECKING:
    from espalier.api import Compilation
    from espalier.targets.target import Target

DUMPS = ("relax", "tir", "ll", "asm", "isa")
LAYER = ("name", "structure", "kernel", "candidates", "how")
"""What --json tells of a layer."""
EXPLAIN = ("layer", "structure", "kernel", "ms", "how", "candidates (ms)")


def _pass_config(_ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, Any]:
    """k=v: whole numbers and true/false become such, all else stays text."""
    config: dict[str, Any] = {}
    for text in values:
        key, equals, value = text.partition("=")
        if not equals or not key or not value:
            raise UsageError(
                f"--pass-config: got {text!r}, expected key=value", hint="write --pass-config key=value"
            )
        if key in config:
            raise UsageError(f"--pass-config: {key!r} is given twice", hint="give each key once")
        number = value.removeprefix("-")
        if value.lower() in ("true", "false"):
            config[key] = value.lower() == "true"
        else:
            config[key] = int(value) if number.isascii() and number.isdigit() and len(number) < 19 else value
    return config


@click.command(short_help="Compile a model for a device into a package.")
@model_argument
@output_option("PKG.tar", "The package to write. Default: the model's name with .tar, in this folder.")
@target_option
@input_shapes_option
@max_shape_option
@click.option("--dtype", type=Choice(*DTYPES), default=DTYPES[0], help="Data type of the kernels.")
@threads_option
@click.option(
    "--calibrate",
    metavar="DATA.npz",
    type=FILE,
    help="Samples of every input, along its first axis, to choose int8 scales from. Default: made-up ones.",
)
@click.option(
    "--max-error",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.05,
    show_default=True,
    help="What --dtype int8 may cost: root mean square of the outputs' error over that of the outputs.",
)
@tuning_records_option
@click.option("--explain", is_flag=True, help="Print what was chosen for each linear layer, and why.")
@click.option("--dump-code", type=Names(*DUMPS), default=(), help="Also write PKG.KIND beside the package.")
@click.option("--dump-dir", metavar="DIR", type=FILE, help="Where --dump-code writes instead.")
@click.option(
    "--pass-config",
    metavar="K=V",
    multiple=True,
    callback=_pass_config,
    help="A setting of TVM's PassContext.",
)
@click.option("--disabled-pass", metavar="PASS", multiple=True, help="Leave out a pass.")
@click.option(
    "--print-ir-before", metavar="PASS", multiple=True, help="Print the module before a pass, on stderr."
)
@click.option(
    "--print-ir-after", metavar="PASS", multiple=True, help="Print the module after a pass, on stderr."
)
@click.option("--print-pass-times", is_flag=True, help="Print how long each pass took, on stderr.")
@common
def command(
    model: Path,
    path: Path | None,
    target: Target | None,
    input_shapes: Shapes | None,
    max_shape: Shapes | None,
    dtype: str,
    threads: int | None,
    calibrate: Path | None,
    max_error: float,
    tuning_records: tuple[Path, ...],
    explain: bool,
    dump_code: tuple[str, ...],
    dump_dir: Path | None,
    pass_config: dict[str, Any],
    disabled_pass: tuple[str, ...],
    print_ir_before: tuple[str, ...],
    print_ir_after: tuple[str, ...],
    print_pass_times: bool,
    output: Output,
) -> None:
    """Compiles MODEL.onnx into a package that `espalier run` runs.

    Dimensions that the model leaves open stay open up to --max-shape, which is written into the package.
    """
    from espalier import api
    from espalier.arrays import read_npz

    path = path or Path(f"{model.stem}.tar")
    dumps = _dump_paths(path, dump_code, dump_dir)
    for written in (path, *dumps.values()):
        check_output(written)
        check_overwrite(written, model, calibrate, *tuning_records)
    samples = None if calibrate is None else read_npz(calibrate)
    with output.step(f"compiling {model.name}"):
        done = api.compile_model(
            model,
            target=target,
            input_shapes=input_shapes,
            max_shape=max_shape,
            dtype=dtype,
            threads=threads,
            dump_code=dump_code,
            pass_config=pass_config,
            disabled_pass=disabled_pass,
            print_ir_before=print_ir_before,
            print_ir_after=print_ir_after,
            calibrate=samples,
            max_error=max_error,
            tuning_records=tuning_records,
        )
    if print_pass_times:
        for name, seconds in done.pass_seconds.items():
            click.echo(f"{name:<24} {seconds:8.3f} s", err=True)
    done.package.save(path)
    for kind, dumped in dumps.items():
        with atomic(dumped) as temporary:
            temporary.write_text(done.dumps[kind], encoding="utf-8")
        output.note(f"wrote {dumped}")
    metadata = done.package.metadata
    if metadata.accelerator is not None and samples is None:
        output.note("the int8 scales come from made-up inputs; give --calibrate DATA.npz for a model in use")
    result = {
        "package": str(path),
        "target": metadata.target.model_dump(mode="json"),
        "layers": [layer.model_dump(mode="json", include={*LAYER}) for layer in metadata.layers],
        "seconds": done.seconds,
        **({} if metadata.error is None else {"error": metadata.error}),
    }
    output.show(result, lambda: _text(path, done, explain, output))


def _dump_paths(package: Path, kinds: tuple[str, ...], folder: Path | None) -> dict[str, Path]:
    if folder is not None and not folder.is_dir():
        raise UsageError(f"--dump-dir {folder} is no folder", hint="give a folder that exists")
    return {kind: (folder or package.parent) / f"{package.stem}.{kind}" for kind in kinds}


def _text(path: Path, done: Compilation, explain: bool, output: Output) -> None:
    if explain:
        rows = [
            [
                layer.name,
                layer.structure,
                layer.kernel,
                layer.candidates.get(layer.kernel, "-"),
                layer.how,
                _by_time(layer.candidates, layer.measured),
            ]
            for layer in done.package.metadata.layers
        ]
        output.table(EXPLAIN, rows)
        click.echo()
    target = done.package.metadata.target
    click.echo(
        f"{path}: {len(done.package.metadata.layers)} linear layers for {target.name} ({target.mcpu})",
        nl=False,
    )
    size = len(done.package.module) + sum(map(len, done.package.images.values()))
    click.echo(f", {size:,} bytes of code and weights, in {done.seconds:.1f} s")
    if done.package.metadata.error is not None:
        integers = sum(layer.kernel.startswith("u8-") for layer in done.package.metadata.layers)
        click.echo(
            f"{integers} of them on integers, which costs {done.package.metadata.error:.2%} of the outputs "
            "(root mean square, on the samples)"
        )
    if done.package.metadata.accelerator is not None:
        click.echo(done.package.metadata.accelerator.summary())


def _by_time(candidates: dict[str, float], measured: tuple[str, ...]) -> str:
    return ", ".join(
        f"{name} {ms:.4g}{' (measured)' if name in measured else ''}"
        for name, ms in sorted(candidates.items(), key=lambda item: item[1])
    )
