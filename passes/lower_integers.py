"""Lower, layers on integers: their activations are quantised once for all layers that read them."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

import numpy as np
import tvm
from tvm import relax, tirx

from espalier.passes.graph import dims
from espalier.passes.state import Layer
from espalier.schedules.linear import LEVELS
from espalier.schedules.x86.int8_linear import Int8Linear
from espalier.schedules.x86.int8_quantize import QuantizeWork, quantize_tiles
from espalier.sparsity import Packed

Function = Callable[[Hashable, str, Callable[[str], tirx.PrimFunc]], tvm.ir.GlobalVar]
"""`function(key, name, make)`: the kernel of this key, made at its first use."""


class Integers:
    """The quantised activations so far."""

    def __init__(self) -> None:
        self._known: dict[Hashable, list[relax.Expr]] = {}

    def constants(self, layer: Layer, packed: Packed) -> tuple[np.ndarray, ...]:
        """The arrays of the layer's kernel."""
        if not isinstance(layer.kernel, Int8Linear):
            return layer.kernel.pack(packed)
        assert layer.quantization is not None
        return layer.kernel.pack(packed, layer.quantization)

    def of(
        self, x: relax.Var, layer: Layer, function: Function, emit: Callable[[relax.Expr], relax.Expr]
    ) -> list[relax.Expr]:
        """What the layer's kernel reads in the place of x `[tiles, K, 16]`: u8, and scales and zero points
        of the tokens unless they are constants. A kernel on floats reads those that the integers stand for.
        """
        kernel, given = layer.kernel, layer.quantization
        assert given is not None
        levels = kernel.levels if isinstance(kernel, Int8Linear) else LEVELS
        shape: Any = dims(x)
        work = QuantizeWork(
            shape[1], levels, given.mode, divide=given.given, back=not isinstance(kernel, Int8Linear)
        )
        key = (x, given, work)
        if key not in self._known:
            called = function(work, f"quantize_{given.mode}_{shape[1]}", partial(quantize_tiles, work))
            self._known[key] = _quantised(x, layer, work, called, emit)
        return self._known[key][:1] if work.back else self._known[key]


def _quantised(
    x: relax.Var,
    layer: Layer,
    work: QuantizeWork,
    called: tvm.ir.GlobalVar,
    emit: Callable[[relax.Expr], relax.Expr],
) -> list[relax.Expr]:
    """The results of a function: q, and scales and zero points unless they are constants."""
    given = layer.quantization
    assert given is not None
    shape: Any = dims(x)
    factors = np.asarray(given.factors or np.ones(work.features), np.float32)
    result = relax.TensorType(list(shape), "float32" if work.back else "uint8")
    if given.mode == "static":
        ours = given.at(work.levels)
        scale = np.array([ours.scale], np.float32) if given.given else factors / np.float32(ours.scale)
        args = [x, relax.const(scale), relax.const(np.array([ours.zero], np.int32))]
        return [emit(relax.call_tir(called, args, out_ty=result))]
    args = [x, *([] if given.given else [relax.const(factors)])]
    args = [x, layer.rows] if given.mode == "tensor" else args
    each = [relax.TensorType([shape[0], shape[2]], dtype) for dtype in ("float32", "int32")]
    parts = emit(relax.call_tir(called, args, out_ty=[result, *each]))
    return [emit(relax.TupleGetItem(parts, index)) for index in range(3)]
