"""`espalier inspect`: what each weight of a model is."""

from __future__ import annotations

from pathlib import Path

import click

from espalier.cli.options import Output, common, model_argument


@click.command(short_help="Tell the sparse structure of every weight of a model.")
@model_argument
@common
def command(model: Path, output: Output) -> None:
    """Tells the sparse structure of every weight of MODEL.onnx.

    One row a weight of a linear layer: its structure with parameters, its sparsity, and its exact size in
    bytes in each format.
    """
    from espalier import api

    with output.step("reading and detecting"):
        inspection = api.inspect(model)
    rows = [
        [
            weight.name,
            "x".join(str(length) for length in weight.shape),
            weight.label,
            f"{100 * weight.sparsity:.1f} %",
            *("-" if weight.bytes[name] is None else weight.bytes[name] for name in api.FORMATS),
        ]
        for weight in inspection.weights
    ]
    columns = ("weight", "shape", "structure", "sparsity", *(f"{name} bytes" for name in api.FORMATS))
    output.show(inspection.to_dict(), lambda: output.table(columns, rows))
    if not rows:
        output.note(f"{model} has no linear layers")
