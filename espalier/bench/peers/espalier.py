"""Espalier itself: compiled for this CPU without tuning records."""

from __future__ import annotations

from pathlib import Path

from espalier import api
from espalier.bench.peers import Arrays, Declined, Run
from espalier.errors import ModelError


def load(model: Path, inputs: Arrays, threads: int) -> Run:
    """The package that `espalier compile` makes, on `threads` threads; raises Declined for a bad model."""
    try:
        shapes = {name: array.shape for name, array in inputs.items()}
        package = api.compile(model, input_shapes=shapes, threads=threads)
    except ModelError as error:
        raise Declined(error.message) from error
    executor = package.executor(threads=threads)
    return lambda: executor.run(inputs)
