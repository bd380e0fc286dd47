"""Checks what is given against what a package takes, and fills inputs where nothing is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from espalier.errors import DataError, UsageError, unknown
from espalier.runtime.signature import Signature, Tensor

FillMode = Literal["random", "zeros", "ones"]

ALIGNMENT = 64
"""Bytes. Generated code reads whole vectors and expects its arrays to begin on such a border."""

SAFE_CASTS = {"float32": ("float64",)}
"""Casts that numpy calls lossy and that are done all the same: numpy's own arrays are float64."""


def check_inputs(signature: Signature, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The arrays in the order of the call, in the right data types, contiguous and aligned.

    Raises DataError for missing, extra or misnamed arrays, a wrong rank or dimension, a dimension out of its
    bounds or different in two inputs, and a cast that could lose something.
    """
    names = [tensor.name for tensor in signature.inputs]
    for name in arrays:
        if name not in names:
            raise DataError(
                f"input {name!r} is none of the package's: {', '.join(names)}",
                hint=unknown("an input", name, names),
            )
    for tensor in signature.inputs:
        if tensor.name not in arrays:
            raise DataError(
                f"input {tensor.name!r} {_form(tensor)} is missing; given: {', '.join(arrays) or 'none'}",
                hint=f"add an array named {tensor.name!r}",
            )
    sizes: dict[str, tuple[int, str]] = {}
    checked = []
    for tensor in signature.inputs:
        array = np.asarray(arrays[tensor.name])
        _check_shape(tensor, array.shape, signature, sizes)
        checked.append(aligned(_cast(tensor, array)))
    return checked


def dim_sizes(signature: Signature, arrays: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Every symbolic dimension of the inputs, as arrays that fit them have it."""
    return {
        dim: size
        for tensor in signature.inputs
        for dim, size in zip(tensor.shape, arrays[tensor.name].shape, strict=True)
        if isinstance(dim, str)
    }


def _check_shape(
    tensor: Tensor, shape: tuple[int, ...], signature: Signature, sizes: dict[str, tuple[int, str]]
) -> None:
    if len(shape) != len(tensor.shape):
        raise DataError(
            f"input {tensor.name!r} {list(shape)} has rank {len(shape)}, expected {_form(tensor)}",
            hint=f"reshape {tensor.name!r} to {_form(tensor)}",
        )
    for axis, (got, expected) in enumerate(zip(shape, tensor.shape, strict=True)):
        where = f"input {tensor.name!r} {list(shape)}, dimension {axis}:"
        if isinstance(expected, int):
            if got != expected:
                raise DataError(f"{where} expected {expected}, got {got}", hint=f"give {_form(tensor)}")
            continue
        least, most = signature.dims[expected]
        if not least <= got <= most:
            raise DataError(
                f"{where} {expected} is {got}, expected {least} to {most}",
                hint=f"give fewer, or compile with a larger --max-shape for {tensor.name!r}"
                if got > most
                else f"give at least {least}",
            )
        known, first = sizes.setdefault(expected, (got, tensor.name))
        if got != known:
            raise DataError(
                f"{where} {expected} is {got}, but {known} in input {first!r}",
                hint=f"give {first!r} and {tensor.name!r} the same {expected}",
            )


def _cast(tensor: Tensor, array: np.ndarray) -> np.ndarray:
    wanted = np.dtype(tensor.dtype)
    if array.dtype == wanted:
        return array
    if array.dtype.kind not in "biuf":
        raise DataError(
            f"input {tensor.name!r} holds {array.dtype}, expected {wanted}",
            hint=f"convert {tensor.name!r} to {wanted}",
        )
    if np.can_cast(array.dtype, wanted, casting="safe") or array.dtype.name in SAFE_CASTS.get(
        wanted.name, ()
    ):
        return array.astype(wanted)
    raise DataError(
        f"input {tensor.name!r} is {array.dtype}, and casting it to {wanted} could lose values",
        hint=f"convert {tensor.name!r} to {wanted} yourself where that is meant",
    )


def aligned(array: np.ndarray) -> np.ndarray:
    """The array itself where generated code can read it in place, else a copy."""
    if array.flags.c_contiguous and array.flags.writeable and array.ctypes.data % ALIGNMENT == 0:
        return array
    memory = np.empty(array.nbytes + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def fill_inputs(
    signature: Signature, mode: FillMode, seed: int, shapes: Mapping[str, tuple[int, ...]] | None = None
) -> dict[str, np.ndarray]:
    """Inputs where the user gives none.

    Random floats are normal, random integers 0 or 1: sound both as a mask and as a token.
    A symbolic dimension not fixed by `shapes` is 1 where it comes first and otherwise 128, within its bounds.
    Raises UsageError where `shapes` contradict the package.
    """
    sizes = _sizes(signature, shapes or {})
    random = np.random.default_rng(seed)
    arrays = {}
    for tensor in signature.inputs:
        shape = tuple(dim if isinstance(dim, int) else sizes[dim] for dim in tensor.shape)
        dtype = np.dtype(tensor.dtype)
        if mode == "zeros":
            arrays[tensor.name] = np.zeros(shape, dtype)
        elif mode == "ones":
            arrays[tensor.name] = np.ones(shape, dtype)
        elif dtype.kind == "f":
            arrays[tensor.name] = random.standard_normal(shape).astype(dtype)
        else:
            arrays[tensor.name] = random.integers(0, 2, shape).astype(dtype)
    return arrays


def _sizes(signature: Signature, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    tensors = {tensor.name: tensor for tensor in signature.inputs}
    sizes: dict[str, int] = {}
    for name, shape in shapes.items():
        if name not in tensors:
            raise UsageError(
                f"input shapes: the package has no input {name!r}", hint=unknown("an input", name, tensors)
            )
        expected = tensors[name].shape
        if len(shape) != len(expected):
            raise UsageError(
                f"input shapes: {name!r} {list(shape)} does not fit {_form(tensors[name])}",
                hint=f"give {name!r} {len(expected)} dimensions",
            )
        for got, dim in zip(shape, expected, strict=True):
            least, most = signature.dims[dim] if isinstance(dim, str) else (dim, dim)
            if not least <= got <= most or (isinstance(dim, str) and sizes.setdefault(dim, got) != got):
                raise UsageError(
                    f"input shapes: {name!r} {list(shape)} does not fit {_form(tensors[name])}: "
                    f"{dim} is {got}, expected {least if least == most else f'{least} to {most}'}",
                    hint="give every input the same lengths, within the package's bounds",
                )
    for tensor in signature.inputs:
        for axis, dim in enumerate(tensor.shape):
            if isinstance(dim, str) and dim not in sizes:
                least, most = signature.dims[dim]
                sizes[dim] = min(max(1 if axis == 0 else 128, least), most)
    return sizes


def _form(tensor: Tensor) -> str:
    return f"[{', '.join(str(dim) for dim in tensor.shape)}] {tensor.dtype}"
