"""Inputs to time a model with, made from what its ONNX file declares."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

SEQUENCE = 128
"""What a symbolic dimension other than the first becomes when no shape is given; the first becomes 1."""


def model_inputs(
    model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]], seed: int = 0
) -> dict[str, np.ndarray]:
    """An array for every input: floats normal, integers 1 (an index in every table, a mask of nothing).

    `shapes` are those asked for; without one, a dimension that the file leaves open is 1 at the front and 128
    elsewhere.
    """
    rng = np.random.default_rng(seed)
    weights = {tensor.name for tensor in model.graph.initializer}
    arrays = {}
    for value in model.graph.input:
        if value.name in weights:
            continue
        tensor = value.type.tensor_type
        declared = [dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim]
        shape = shapes.get(value.name) or tuple(
            dim if dim is not None else (SEQUENCE if axis else 1) for axis, dim in enumerate(declared)
        )
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        if np.issubdtype(dtype, np.floating):
            arrays[value.name] = rng.standard_normal(shape).astype(dtype)
        else:
            arrays[value.name] = np.ones(shape, dtype)
    return arrays
