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
        assert isinstance(layer.kernel, Int8Linear)
        assert layer.quantization is not None
        return layer.kernel.pack(packed, layer.quantization)

    def of(
        self, x: relax.Var, layer: Layer, function: Function, emit: Callable[[relax.Expr], relax.Expr]
    ) -> list[relax.Expr]:
        """What the layer's kernel reads in the place of x `[tiles, K, 16]`: u8, and scales and zero points
        of the tokens unless they are constants."""
        kernel, given = layer.kernel, layer.quantization
        assert isinstance(kernel, Int8Linear)
        assert given is not None
        key = (x, given, kernel.levels)
        if key not in self._known:
            shape: Any = dims(x)
            tiles, features, lanes = shape
            work = QuantizeWork(features, kernel.levels, given.mode, divide=given.given)
            name = f"quantize_{given.mode}_{features}"
            called = function(work, name, partial(quantize_tiles, work))
            args: Any
            factors = np.asarray(given.factors or np.ones(features), np.float32)
            integers = relax.TensorType([tiles, features, lanes], "uint8")
            if given.mode == "static":
                ours = given.at(kernel.levels)
                scale = (
                    np.array([ours.scale], np.float32) if given.given else factors / np.float32(ours.scale)
                )
                args = [x, relax.const(scale), relax.const(np.array([ours.zero], np.int32))]
                self._known[key] = [emit(relax.call_tir(called, args, out_ty=integers))]
            else:
                args = [x, *([] if given.given else [relax.const(factors)])]
                args = [x, layer.rows] if given.mode == "tensor" else args
                each = [relax.TensorType([tiles, lanes], dtype) for dtype in ("float32", "int32")]
                parts = emit(relax.call_tir(called, args, out_ty=[integers, *each]))
                self._known[key] = [emit(relax.TupleGetItem(parts, index)) for index in range(3)]
        return self._known[key]
