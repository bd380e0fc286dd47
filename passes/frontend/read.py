"""Reading an ONNX file: nothing in it is trusted before every check has passed."""

from __future__ import annotations

import os
import stat
from io import BufferedReader
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx
from google.protobuf.message import DecodeError
from onnx import external_data_helper

from espalier.errors import ModelError
from espalier.passes.frontend.check import check_model, shown
from espalier.passes.frontend.tensors import byte_size, tensors

MAX_FILE = (1 << 31) - 1  # what protobuf can hold
MAX_EXTERNAL = 1 << 33
EXPORT = "give a file written by torch.onnx.export or another ONNX exporter"


def read_model(path: str | Path) -> onnx.ModelProto:
    """The model in an ONNX file, with external data loaded and sparse initializers made dense.

    Raises ModelError for a file that is missing, damaged, or uses what is not supported.
    """
    path = Path(path)
    model = _parse(path)
    _load_external(model, path)
    check_model(model)
    return model


def _parse(path: Path) -> onnx.ModelProto:
    try:
        info = path.stat()
        if stat.S_ISDIR(info.st_mode):
            raise ModelError(
                f"{path} is a folder, expected an ONNX file", hint="give the .onnx file inside it"
            )
        if not stat.S_ISREG(info.st_mode):
            raise ModelError(f"{path} is not a regular file", hint=EXPORT)
        if info.st_size == 0:
            raise ModelError(f"{path} is empty", hint=EXPORT)
        if info.st_size > MAX_FILE:
            raise ModelError(
                f"{path} has {info.st_size} bytes, expected at most {MAX_FILE}",
                hint="save the weights as external data",
            )
        model = onnx.ModelProto()
        with path.open("rb") as file:
            if not _whole(file, info.st_size):
                raise ModelError(f"{path} is no ONNX model, or is cut short", hint=EXPORT)
            file.seek(0)
            model.ParseFromString(file.read())
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file", hint="check the path of the ONNX file") from None
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{path} cannot be read: {error}", hint="check the path and its permissions"
        ) from None
    except DecodeError:
        raise ModelError(f"{path} is no ONNX model, or is cut short", hint=EXPORT) from None
    if not model.HasField("graph") or not model.opset_import:
        raise ModelError(f"{path} is no ONNX model: it has no graph or no opset", hint=EXPORT)
    return model


def _whole(file: BufferedReader, size: int) -> bool:
    """Whether the outermost fields of a protobuf message fill the file exactly, without reading it all."""
    while file.tell() < size:
        tag = _varint(file)
        if tag is None or tag >> 3 == 0 or tag & 7 not in (0, 2):
            return False
        length = _varint(file)
        if length is None:
            return False
        if tag & 7 == 2:
            if file.tell() + length > size:
                return False
            file.seek(length, os.SEEK_CUR)
    return True


def _varint(file: BufferedReader) -> int | None:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            return None
        value |= (byte[0] & 127) << shift
        if byte[0] < 128:
            return value
    return None


def _load_external(model: onnx.ModelProto, path: Path) -> None:
    """Loads weights stored beside the model; each file must lie inside the model's folder."""
    folder = path.resolve().parent
    total = 0
    for tensor in tensors(model):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        total += _check_external(tensor, folder)
        if total > MAX_EXTERNAL:
            raise ModelError(
                f"the external data has more than {MAX_EXTERNAL} bytes", hint="compile a smaller model"
            )
        try:
            external_data_helper.load_external_data_for_tensor(tensor, str(folder))
        except (OSError, ValueError, onnx.checker.ValidationError) as error:
            raise ModelError(
                f"external data of {shown(tensor.name)} cannot be read: {error}",
                hint="keep the data file beside the model",
            ) from None
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]


def _check_external(tensor: onnx.TensorProto, folder: Path) -> int:
    """The bytes that a tensor takes from its file; raises ModelError unless that is a plain part of it."""
    entry = {item.key: item.value for item in tensor.external_data}
    location, where = str(entry.get("location", "")), f"external data of {shown(tensor.name)}"
    inside = "keep the data file in the model's folder, as the exporter wrote it"
    plain = PurePosixPath(location.replace("\\", "/"))
    if not location or plain.is_absolute() or PureWindowsPath(location).drive or ".." in plain.parts:
        raise ModelError(f"{where}: path {shown(location)} leaves the model's folder", hint=inside)
    file = folder / plain
    if os.path.realpath(file) != str(file):
        raise ModelError(f"{where}: {shown(location)} is a link, expected a file", hint=inside)
    if not file.is_file():
        raise ModelError(f"{where}: no file {shown(location)} beside the model", hint=inside)
    try:
        offset, length = int(entry.get("offset", 0)), int(entry.get("length", byte_size(tensor)))
    except ValueError:
        raise ModelError(f"{where}: offset or length is no number", hint=inside) from None
    if length != byte_size(tensor):
        raise ModelError(
            f"{where}: {length} bytes, expected {byte_size(tensor)} for {list(tensor.dims)}", hint=inside
        )
    have = file.stat().st_size
    if offset < 0 or offset + length > have:
        raise ModelError(
            f"{where}: bytes {offset} to {offset + length} of a file of {have} bytes", hint=inside
        )
    return length
