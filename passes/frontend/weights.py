"""The weights of the linear layers of a model, without a compiler."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from espalier.passes.frontend.convert.graph import convert
from espalier.passes.frontend.values import Constant, Plain


@dataclass(frozen=True)
class LinearWeight:
    """A constant matrix [N, K] of y = x Wᵀ.

    `name` is the ONNX initializer (or Constant node) the bytes come from, `nodes` the ONNX nodes that use it.
    """

    name: str
    nodes: tuple[str, ...]
    matrix: np.ndarray


def linear_weights(model: onnx.ModelProto) -> list[LinearWeight]:
    """Every constant matrix that enters a matrix product, in the order of the graph.

    Raises ModelError where the graph cannot be converted.
    """
    return weights_of(convert(model))


def weights_of(plain: Plain) -> list[LinearWeight]:
    """The linear weights of a converted graph."""
    found: dict[tuple[object, ...], tuple[Constant, list[str]]] = {}
    for tensor in plain.ops:
        op = tensor.op
        if op is None or op.name != "matmul":
            continue
        weight = op.inputs[1]
        if isinstance(weight, Constant) and weight.array.ndim == 2:
            array = weight.array
            key = (weight.source or id(array), array.shape, array.dtype, array.ctypes.data)
            known = next(
                (
                    k
                    for k, (c, _) in found.items()
                    if k[0] == key[0] and k[1] == key[1] and np.array_equal(c.array, array)
                ),
                key,
            )
            found.setdefault(known, (weight, []))[1].append(op.node)
    return [
        LinearWeight(
            constant.source or nodes[0], tuple(dict.fromkeys(nodes)), np.ascontiguousarray(constant.array.T)
        )
        for constant, nodes in found.values()
    ]
