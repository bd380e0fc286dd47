"""Runs a model in float on samples, to know the ranges of everything that becomes int8.

The host's code is the one that goes into the package; the accelerator's parts are evaluated in numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from espalier.codegen.fpga.integer import Ranges
from espalier.schedules.fpga.graph import PADDING, Part

if TYPE_CHECKING:
    from espalier.passes.samples import Samples


def calibrate(library: bytes, parts: Sequence[Part], samples: Samples) -> list[Ranges]:
    """The ranges of each part. Raises DataError where the samples do not fit the model."""
    ranges = [Ranges(part) for part in parts]
    functions = {
        part.symbol: partial(_evaluate, part, found) for part, found in zip(parts, ranges, strict=True)
    }
    samples.run(library, functions)
    return ranges


def _evaluate(part: Part, ranges: Ranges, *tensors: Any) -> None:
    """The part in float, as the host's code calls it: inputs, masks, then outputs to write."""
    arrays = [np.from_dlpack(tensor) for tensor in tensors]
    count = len(part.inputs)
    inputs = [array if array.ndim == 3 else array[None] for array in arrays[:count]]
    masks = arrays[count : count + len(part.handed)]
    outputs = [array if array.ndim == 3 else array[None] for array in arrays[count + len(part.handed) :]]
    for sequence in range(len(inputs[0])):
        values = {item.name: x[sequence] for item, x in zip(part.inputs, inputs, strict=True)}
        for name, mask in zip(part.handed, masks, strict=True):
            row = mask[sequence if len(mask) == len(inputs[0]) else 0, 0]
            row = row[0] if len(row) == 1 else row
            values[name] = np.where(row, 0.0, -np.inf) if row.dtype == bool else row
        values[PADDING] = np.zeros(inputs[0].shape[1])
        trace = ranges.add(values)
        for name, out in zip(part.outputs, outputs, strict=True):
            out[sequence] = trace[name]
