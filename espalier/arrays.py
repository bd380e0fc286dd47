"""npz files: read as hostile, written whole and with the same bytes for the same arrays."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from espalier.errors import DataError
from espalier.files import atomic, require_file

MOST_BYTES = 1 << 30
MOST_ARRAYS = 1024
CHUNK = 1 << 20
"""zipfile makes a copy of what it reads at once."""

HINT = "write it with numpy.savez(path, name=array, ..)"


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Every array by name.

    Raises DataError where the file is missing or damaged, an array needs pickle, or all exceed 1 GiB.
    """
    size = require_file(path, "npz file", DataError)
    if size > MOST_BYTES:
        raise DataError(f"npz file {path} has {size} bytes, at most {MOST_BYTES} expected", hint=HINT)
    arrays: dict[str, np.ndarray] = {}
    left = MOST_BYTES
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if len(entries) > MOST_ARRAYS:
                raise DataError(
                    f"npz file {path} has {len(entries)} arrays, at most {MOST_ARRAYS} expected", hint=HINT
                )
            for entry in entries:
                name = entry.filename.removesuffix(".npy")
                if name == entry.filename or name in arrays:
                    reason = "comes twice" if name in arrays else "is no array"
                    raise DataError(f"npz file {path}: member {entry.filename!r} {reason}", hint=HINT)
                with archive.open(entry) as file:
                    arrays[name] = _read_array(
                        file, min(left, entry.file_size), f"npz file {path}: array {name!r}"
                    )
                left -= arrays[name].nbytes
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"npz file {path} is damaged or no npz: {error}", hint=HINT) from None
    return arrays


def _read_array(file: IO[bytes], most: int, where: str) -> np.ndarray:
    """An array in numpy's format; its size is checked before any memory is taken for it."""
    try:
        version = npy.read_magic(file)
        if version == (1, 0):
            shape, by_column, dtype = npy.read_array_header_1_0(file)
        elif version == (2, 0):
            shape, by_column, dtype = npy.read_array_header_2_0(file)
        else:
            raise ValueError(f"format {version} is unknown")
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise DataError(f"{where} is damaged: {str(error)[:200]}", hint=HINT) from None
    if dtype.hasobject:
        raise DataError(
            f"{where} holds Python objects (pickle), which are refused", hint="store plain numbers"
        )
    if dtype.kind not in "biuf":
        raise DataError(f"{where} holds {dtype}, expected numbers", hint=HINT)
    size = dtype.itemsize
    for length in shape:
        size *= max(0, length)
    if size > most or any(length < 0 for length in shape):
        raise DataError(
            f"{where} claims the shape {shape} ({size} bytes), more than the file holds", hint=HINT
        )
    flat = np.empty(size // dtype.itemsize, dtype)
    rest = flat.view(np.uint8).data
    while rest:
        count = file.readinto(rest[:CHUNK])  # type: ignore[attr-defined]
        if not count:
            raise DataError(f"{where} is cut off", hint=HINT)
        rest = rest[count:]
    return flat.reshape(shape[::-1]).T if by_column else flat.reshape(shape)


def write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes the arrays under their names.

    Raises UsageError where the file cannot be written.
    """
    with atomic(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as file:
                npy.write_array(file, np.asarray(array), allow_pickle=False)
