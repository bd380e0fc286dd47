"""Runs a model in float on samples, to know the ranges of everything that becomes int8.

The host's code is the one that goes into the package; the accelerator's parts are evaluated in numpy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from espalier.codegen.fpga.integer import Ranges
from espalier.errors import DataError
from espalier.passes.partition import PADDING, symbol
from espalier.runtime.executor import Executor
from espalier.runtime.inputs import fill_inputs
from espalier.runtime.signature import Signature
from espalier.schedules.fpga.graph import Part

MADE_UP = 4
"""Samples made up where the user gives none."""
MADE_UP_LENGTH = 64
"""Of a symbolic dimension in them, within its bounds."""


def calibrate(
    library: bytes,
    signature: Signature,
    parts: Sequence[Part],
    samples: Mapping[str, np.ndarray] | None,
    vocabularies: Mapping[str, int],
) -> list[Ranges]:
    """The ranges of each part. Without `samples` inputs are made up: normal, or below their vocabulary.

    Raises DataError where the samples do not fit the signature.
    """
    ranges = [Ranges(part) for part in parts]
    functions = {
        symbol(part.name): partial(_evaluate, part, found) for part, found in zip(parts, ranges, strict=True)
    }
    executor = Executor(library, signature, functions=functions)
    batches = made_up(signature, vocabularies) if samples is None else _batches(signature, samples)
    for batch in batches:
        executor.run(batch)
    return ranges


def _batches(signature: Signature, samples: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """The samples as single runs of the model."""
    first = signature.inputs[0]
    size = first.shape[0] if first.shape and isinstance(first.shape[0], int) else 1
    counts = {name: len(array) if array.ndim else 0 for name, array in samples.items()}
    total = min(counts.values(), default=0)
    if not total or len(set(counts.values())) > 1 or total % size:
        shown = ", ".join(f"{name!r} {count}" for name, count in counts.items()) or "none"
        raise DataError(
            f"calibration data: samples along the first axis: {shown}; expected as many of each input, "
            f"a multiple of {size}",
            hint="write numpy.savez(path, name=array, ..) with one array for each input of the model",
        )
    return [
        {name: array[start : start + size] for name, array in samples.items()}
        for start in range(0, total, size)
    ]


def made_up(signature: Signature, vocabularies: Mapping[str, int]) -> list[dict[str, np.ndarray]]:
    """A few inputs where the user gives none."""
    sizes = {
        name: min(max(least, 1 if name == _batch(signature) else MADE_UP_LENGTH), most)
        for name, (least, most) in signature.dims.items()
    }
    shapes = {
        tensor.name: tuple(dim if isinstance(dim, int) else sizes[dim] for dim in tensor.shape)
        for tensor in signature.inputs
    }
    found = []
    for seed in range(MADE_UP):
        inputs = fill_inputs(signature, "random", seed, shapes)
        random = np.random.default_rng(seed)
        for name, array in inputs.items():
            if name in vocabularies:
                inputs[name] = random.integers(0, vocabularies[name], array.shape).astype(array.dtype)
            elif array.dtype.kind in "iub":
                inputs[name] = np.ones_like(array)  # a mask that keeps everything
        found.append(inputs)
    return found


def _batch(signature: Signature) -> object:
    shape = signature.inputs[0].shape
    return shape[0] if shape else None


def _evaluate(part: Part, ranges: Ranges, *tensors: Any) -> None:
    """The part in float, as the host's code calls it: inputs, masks, then outputs to write."""
    handed = [name for name in part.masks if name != PADDING]
    arrays = [np.from_dlpack(tensor) for tensor in tensors]
    count = len(part.inputs)
    inputs = [array if array.ndim == 3 else array[None] for array in arrays[:count]]
    masks = arrays[count : count + len(handed)]
    outputs = [array if array.ndim == 3 else array[None] for array in arrays[count + len(handed) :]]
    for sequence in range(len(inputs[0])):
        values = {item.name: x[sequence] for item, x in zip(part.inputs, inputs, strict=True)}
        for name, mask in zip(handed, masks, strict=True):
            row = mask[sequence if len(mask) == len(inputs[0]) else 0].reshape(-1)
            values[name] = np.where(row, 0.0, -np.inf) if row.dtype == bool else row
        values[PADDING] = np.zeros(inputs[0].shape[1])
        trace = ranges.add(values)
        for name, out in zip(part.outputs, outputs, strict=True):
            out[sequence] = trace[name]
