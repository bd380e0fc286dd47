"""Tensors of an ONNX file: what they must be, and sparse ones made dense."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from espalier.errors import ModelError

MAX_ELEMENTS = 1 << 31
MAX_RANK = 8
DAMAGED = "the file is damaged: export the model again"
BITS: dict[int, int] = {
    TensorProto.FLOAT: 32,
    TensorProto.DOUBLE: 64,
    TensorProto.FLOAT16: 16,
    TensorProto.BFLOAT16: 16,
    TensorProto.INT64: 64,
    TensorProto.INT32: 32,
    TensorProto.INT16: 16,
    TensorProto.INT8: 8,
    TensorProto.UINT64: 64,
    TensorProto.UINT32: 32,
    TensorProto.UINT16: 16,
    TensorProto.UINT8: 8,
    TensorProto.BOOL: 8,
    TensorProto.INT4: 4,
    TensorProto.UINT4: 4,
}
# the field that holds the numbers when raw_data is absent, and values a number
FIELDS: dict[int, str] = {
    TensorProto.FLOAT: "float_data",
    TensorProto.DOUBLE: "double_data",
    TensorProto.INT64: "int64_data",
    TensorProto.UINT64: "uint64_data",
    TensorProto.UINT32: "uint64_data",
}


def shown(name: str | bytes) -> str:
    """A name from a file, fit for one line of a message."""
    text = repr(name)
    return text if len(text) <= 100 else f"{text[:97]}...'"


def tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor stored in a model: initializers and attributes, subgraphs and functions included."""
    graphs = [model.graph]
    nodes = [node for function in model.functions for node in function.node]
    while graphs or nodes:
        if graphs:
            graph = graphs.pop()
            yield from graph.initializer
            for sparse in graph.sparse_initializer:
                yield from (sparse.values, sparse.indices)
            nodes.extend(graph.node)
            continue
        for attr in nodes.pop().attribute:
            if attr.HasField("t"):
                yield attr.t
            if attr.HasField("sparse_tensor"):
                yield from (attr.sparse_tensor.values, attr.sparse_tensor.indices)
            if attr.HasField("g"):
                graphs.append(attr.g)
            yield from attr.tensors
            graphs.extend(attr.graphs)


def byte_size(tensor: onnx.TensorProto) -> int:
    """The bytes that a tensor's numbers take."""
    check_header(tensor)
    return (math.prod(tensor.dims) * BITS[tensor.data_type] + 7) // 8


def check_header(tensor: onnx.TensorProto) -> None:
    """Raises ModelError unless the type and the dimensions are ones that are supported."""
    where = f"tensor {shown(tensor.name)}"
    if tensor.data_type not in BITS:
        known = ", ".join(TensorProto.DataType.Name(code).lower() for code in BITS)
        kinds = TensorProto.DataType.DESCRIPTOR.values_by_number
        name = kinds[tensor.data_type].name.lower() if tensor.data_type in kinds else str(tensor.data_type)
        raise ModelError(f"{where} has elements of type {name}, which is not supported", hint=f"use {known}")
    if len(tensor.dims) > MAX_RANK:
        raise ModelError(
            f"{where} has {len(tensor.dims)} dimensions, expected at most {MAX_RANK}", hint=DAMAGED
        )
    if any(n < 0 for n in tensor.dims):
        raise ModelError(f"{where} has a negative dimension: {list(tensor.dims)}", hint=DAMAGED)
    if math.prod(tensor.dims) > MAX_ELEMENTS:
        raise ModelError(
            f"{where} of {list(tensor.dims)} has more than {MAX_ELEMENTS} elements", hint=DAMAGED
        )


def check_tensor(tensor: onnx.TensorProto) -> None:
    """Raises ModelError unless a tensor holds exactly the numbers its dimensions say, none of them NaN.

    Infinity is allowed in a scalar and in a mask (all else zero): exporters write masks so.
    """
    check_header(tensor)
    count, where = math.prod(tensor.dims), f"tensor {shown(tensor.name)}"
    if tensor.HasField("raw_data"):
        have, want, unit = len(tensor.raw_data), byte_size(tensor), "bytes"
    else:
        have, unit = len(getattr(tensor, FIELDS.get(tensor.data_type, "int32_data"))), "numbers"
        want = (count + 1) // 2 if BITS[tensor.data_type] == 4 else count
    if have != want:
        raise ModelError(
            f"{where} holds {have} {unit}, expected {want} for {list(tensor.dims)}", hint=DAMAGED
        )
    if tensor.data_type in (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16):
        check_finite(numpy_helper.to_array(tensor), where)


def check_finite(array: np.ndarray, where: str) -> None:
    """Raises ModelError for NaN, and for infinity outside a scalar or a mask."""
    if np.isfinite(array).all():
        return
    hint = "train or export the model again"
    if np.isnan(array).any():
        raise ModelError(f"{where} holds NaN", hint=hint)
    if array.size > 1 and array[np.isfinite(array)].any():
        raise ModelError(f"{where} holds infinity among its weights", hint=hint)


def dense(sparse: onnx.SparseTensorProto) -> onnx.TensorProto:
    """A sparse tensor with its zeros written out; indices are linear [nnz] or coordinates [nnz, rank]."""
    name = sparse.values.name
    where = f"sparse tensor {shown(name)}"
    header = onnx.TensorProto(name=name, data_type=sparse.values.data_type, dims=list(sparse.dims))
    check_header(header)
    check_tensor(sparse.values)
    check_tensor(sparse.indices)
    values, indices = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
    dims = tuple(sparse.dims)
    if indices.dtype != np.int64 or indices.ndim not in (1, 2) or len(indices) != values.size:
        raise ModelError(
            f"{where} has indices {list(indices.shape)} {indices.dtype} for {values.size} values",
            hint=DAMAGED,
        )
    if indices.ndim == 2:
        if indices.shape[1] != len(dims) or (indices < 0).any() or (indices >= np.array(dims)).any():
            raise ModelError(f"{where} has an index outside {list(dims)}", hint=DAMAGED)
        indices = (
            np.ravel_multi_index(tuple(indices.T), dims) if len(dims) else np.zeros(len(indices), np.int64)
        )
    indices = np.asarray(indices)
    if indices.size and (indices.min() < 0 or indices.max() >= math.prod(dims)):
        raise ModelError(f"{where} has an index outside {list(dims)}", hint=DAMAGED)
    if len(np.unique(indices)) != len(indices):
        raise ModelError(f"{where} names an element twice", hint=DAMAGED)
    if math.prod(dims) > 1 << 28:
        raise ModelError(f"{where} of {list(dims)} is too large to be made dense", hint="store it dense")
    array = np.zeros(math.prod(dims), values.dtype)
    array[indices] = values.reshape(-1)
    return numpy_helper.from_array(array.reshape(dims), name)
