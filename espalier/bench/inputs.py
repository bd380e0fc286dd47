"""Inputs to time a model with, made from what its ONNX file declares."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from espalier.runtime.inputs import fill_inputs
from espalier.runtime.signature import Signature, Tensor

LARGEST = 2**31 - 1


def model_inputs(
    model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]], seed: int = 0
) -> dict[str, np.ndarray]:
    """An array for every input: floats normal, integers 1 (an index in every table, a mask of nothing).

    Open dimensions without a shape are as `fill_inputs` says. Raises UsageError where `shapes` contradict.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    tensors = tuple(_tensor(value) for value in model.graph.input if value.name not in weights)
    dims = {dim: (1, LARGEST) for tensor in tensors for dim in tensor.shape if isinstance(dim, str)}
    filled = fill_inputs(Signature(tensors, (), dims), "random", seed, shapes)
    return {name: array if array.dtype.kind == "f" else np.ones_like(array) for name, array in filled.items()}


def _tensor(value: onnx.ValueInfoProto) -> Tensor:
    """An input as declared; a dimension without a name gets one of its own."""
    declared = value.type.tensor_type
    shape = tuple(
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param or f"{value.name}.{axis}"
        for axis, dim in enumerate(declared.shape.dim)
    )
    return Tensor(value.name, shape, onnx.helper.tensor_dtype_to_np_dtype(declared.elem_type).name)
