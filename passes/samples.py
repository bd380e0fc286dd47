"""Samples of a model's inputs, given by the user or made up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import tvm

from espalier.errors import DataError
from espalier.passes.graph import bindings, dims, operator
from espalier.runtime.executor import Executor
from espalier.runtime.inputs import check_inputs, fill_inputs
from espalier.runtime.signature import Signature

MOST = 16
"""Samples that are used; more say little more and take time."""
MADE_UP = 2
""" ... where none are given."""


@dataclass(frozen=True)
class Samples:
    """batches: arrays of the inputs by name, one run each. given: they are the user's. max_error: that
    rounding may cause in the outputs (root mean square, relative)."""

    signature: Signature
    batches: tuple[Mapping[str, np.ndarray], ...]
    given: bool
    max_error: float

    def __iter__(self) -> Iterator[Mapping[str, np.ndarray]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)

    def run(self, library: bytes, functions: Mapping[str, Callable[..., None]]) -> None:
        """A compiled library on each of them; `functions` are what it calls. Raises DataError as it does."""
        executor = Executor(library, self.signature, functions=functions)
        for batch in self.batches:
            executor.run(batch)


def split(signature: Signature, arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], ...]:
    """Samples along the first axis as the batches that the model takes: as it says, else 1 each.

    Raises DataError for arrays that do not fit the signature, or hold different numbers of samples.
    """
    counts = {name: len(array) if np.ndim(array) else 0 for name, array in arrays.items()}
    if len(set(counts.values())) > 1 or not all(counts.values()):
        raise DataError(
            f"calibration: the inputs hold {counts} samples, expected one number",
            hint="give every input the same samples, along its first axis",
        )
    firsts = [tensor.shape[0] for tensor in signature.inputs if tensor.shape]
    size = next((dim for dim in firsts if isinstance(dim, int)), 1)
    total = min(counts.values(), default=0) // size
    if not total:
        raise DataError(
            f"calibration: {counts} samples do not fill a batch of {size}", hint="give more samples"
        )
    batches = []
    for i in range(min(total, MOST)):
        batch = {name: array[i * size : (i + 1) * size] for name, array in arrays.items()}
        checked = check_inputs(signature, batch)
        batches.append({tensor.name: array for tensor, array in zip(signature.inputs, checked, strict=True)})
    return tuple(batches)


def samples(
    mod: tvm.IRModule, signature: Signature, arrays: Mapping[str, np.ndarray] | None, max_error: float
) -> Samples:
    """The user's samples, or made-up ones: normal floats, any row of a table, ones for other integers.

    Raises DataError as `split` does.
    """
    if arrays is not None:
        return Samples(signature, split(signature, arrays), True, max_error)
    rows = _table_rows(mod)
    batches = []
    for seed in range(MADE_UP):
        filled = fill_inputs(signature, "random", seed)
        random = np.random.default_rng(seed)
        for (name, array), param in zip(filled.items(), mod["main"].params, strict=False):
            if array.dtype.kind in "iu":
                known = rows.get(param.name)
                filled[name] = (
                    np.ones_like(array)
                    if known is None
                    else random.integers(0, known, array.shape).astype(array.dtype)
                )
        batches.append(filled)
    return Samples(signature, tuple(batches), False, max_error)


def _table_rows(mod: tvm.IRModule) -> dict[str, int]:
    """Rows of the table that an input of `main` picks from, by parameter."""
    origin = {param: param.name for param in mod["main"].params}
    found: dict[str, int] = {}
    for var, value in bindings(mod):
        match operator(value):
            case "astype" | "reshape" | "where" | "add" | "less":
                # casts and ONNX's negative indices; the index is the last operand that comes from an input
                names = [origin[arg] for arg in value.args if arg in origin]
                if names:
                    origin[var] = names[-1]
            case "take" if value.args[1] in origin:
                rows = dims(value.args[0])[0]
                if isinstance(rows, int):
                    name = origin[value.args[1]]
                    found[name] = min(rows, found.get(name, rows))
    return found
