"""From a torch model to ONNX whose initializers carry the names of the torch parameters."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn

OPSET = 20


def export_onnx(
    model: nn.Module,
    path: Path,
    example: tuple[torch.Tensor, ...],
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
    dynamic: Mapping[str, Mapping[int, str]],
    prefix: str = "",
) -> None:
    """Write `model` to ONNX, opset 20, with torch's exporter (`dynamo=True`).

    dynamic: input name -> {axis: name of the open dimension}. The exporter stores a weight transposed and
    under a made-up name; here it gets the name of the parameter, less `prefix`, and its zeros stay exact.
    """
    model.eval()
    names: dict[str, torch.export.Dim] = {}
    shapes: Any = tuple(
        {
            axis: names.setdefault(size, torch.export.Dim(size, min=1))
            for axis, size in dynamic.get(name, {}).items()
        }
        for name in inputs
    )
    if any(
        parameter.kind is parameter.VAR_POSITIONAL
        for parameter in signature(model.forward).parameters.values()
    ):
        shapes = (shapes,)
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                model, example, None, input_names=list(inputs), output_names=list(outputs),
                dynamic_shapes=shapes, opset_version=OPSET, dynamo=True, verbose=False,
            )  # fmt: skip
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    assert program is not None
    proto = program.model_proto
    restore_names(proto, model, prefix)
    strip(proto)
    onnx.checker.check_model(proto, full_check=True)
    part = path.with_name(path.name + ".part")
    onnx.save(proto, part)
    os.replace(part, path)


def restore_names(proto: onnx.ModelProto, model: nn.Module, prefix: str) -> None:
    """Rename the initializers that hold a parameter of `model`, or its transpose, to its name."""
    by_bytes: dict[tuple[tuple[int, ...], bytes], str] = {}
    for name, parameter in model.named_parameters():
        array = parameter.detach().cpu().numpy()
        for form in (array, array.T):
            by_bytes.setdefault((form.shape, np.ascontiguousarray(form).tobytes()), name.removeprefix(prefix))
    taken = {initializer.name for initializer in proto.graph.initializer}
    renamed: dict[str, str] = {}
    for initializer in proto.graph.initializer:
        array = numpy_helper.to_array(initializer)
        name = by_bytes.get((array.shape, array.tobytes()))
        if name is not None and name not in taken:
            taken.add(name)
            renamed[initializer.name] = name
            initializer.name = name
    for node in proto.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)


def strip(proto: onnx.ModelProto) -> None:
    """Take off what the exporter notes about the machine it ran on (stack traces, paths)."""
    del proto.graph.value_info[:]
    for holder in (proto, proto.graph, *proto.graph.node, *proto.graph.input, *proto.graph.output):
        del holder.metadata_props[:]
        holder.doc_string = ""
    for initializer in proto.graph.initializer:
        del initializer.metadata_props[:]
        initializer.doc_string = ""


def load_onnx_weights(model: nn.Module, path: Path) -> None:
    """Fill a model's parameters from the initializers of the same names of a file `export_onnx` wrote.

    Raises ValueError for a parameter that is missing or of another shape.
    """
    graph = onnx.load(path).graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    transposed = {node.input[1] for node in graph.node if node.op_type == "MatMul"}
    for name, parameter in model.named_parameters():
        array = stored.get(name)
        if array is not None and name in transposed:
            array = array.T
        if array is None or array.shape != tuple(parameter.shape):
            got = "nothing" if array is None else list(array.shape)
            raise ValueError(f"{path}: {name} should be {list(parameter.shape)}, got {got}")
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(np.array(array)))
