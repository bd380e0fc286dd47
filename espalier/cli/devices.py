"""`espalier devices`: what can be compiled for."""

from __future__ import annotations

import click

from espalier.cli.options import Output, common


@click.command(short_help="List the devices known, or everything about one.")
@click.argument("name", required=False)
@common
def command(name: str | None, output: Output) -> None:
    """Lists the devices known; with NAME (or a part that fits one only) every figure of it and its source."""
    from espalier.targets import registry

    if name is not None:
        device = registry.find_device(name)
        rows = [[figure.name, figure.value, figure.unit, figure.source] for figure in device.figures]
        title = f"{device.name} ({device.kind}): {device.summary}"
        output.show(
            device.to_dict(), lambda: output.table(("figure", "value", "unit", "source"), rows, title=title)
        )
        return
    devices = registry.devices().values()
    rows = [
        [
            device.name,
            device.kind,
            device.target.clock_ghz,
            device.target.peak,
            "yes" if device.present else "no",
            device.summary,
        ]
        for device in devices
    ]
    columns = ("name", "kind", "GHz", "peak", "runs here", "what")
    output.show({"devices": [device.to_dict() for device in devices]}, lambda: output.table(columns, rows))
