"""Runs a program's stream on a device: regions in external memory, inputs in, outputs out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from espalier.targets.fpga.geometry import Geometry
from espalier.targets.fpga.simulator import Device, Kind, Result, Timing


@dataclass(frozen=True)
class Run:
    """The bytes of the output region, and the counters."""

    output: np.ndarray
    result: Result


def run_stream(
    kind: Kind,
    geometry: Geometry,
    stream: bytes,
    constants: bytes,
    inputs: Sequence[np.ndarray],
    output_bytes: int,
    timing: Timing | None = None,
) -> Run:
    """Run `stream` on a fresh simulator. Inputs are int8 tensors in tiles, one after the other in region 1.

    Raises simulator.FaultError when the program faults.
    """
    image = b"".join(x.tobytes() for x in inputs)
    sizes = [_up(len(constants), geometry), _up(len(image), geometry), _up(output_bytes, geometry)]
    starts = [0, sizes[0], sizes[0] + sizes[1]]
    with Device(kind, geometry, sum(sizes), timing) as device:
        for index, (start, size) in enumerate(zip(starts, sizes, strict=True)):
            device.region(index, start, size)
        device.write(starts[0], constants)
        device.write(starts[1], image)
        result = device.run(stream)
        return Run(device.read(starts[2], output_bytes), result)


def _up(size: int, geometry: Geometry) -> int:
    return -(-size // geometry.bus) * geometry.bus
