"""How activations become integers: see int8_quantize.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from espalier.schedules.x86.build import (
    LANES,
    handle,
    loop,
    matched,
    number,
    opaque,
    parallel,
    parameter,
    scratch,
    splat,
    store,
    vector,
)
from espalier.schedules.x86.int8_quantize import QuantizeWork
from espalier.schedules.x86.vmath import ROUND

ROUND_BITS = 0x4B400000
"""ROUND as f32 lies so in memory."""
TINY = 1e-37


def emit(work: QuantizeWork) -> None:
    """Parameters and statements of the function."""
    x = handle("x")
    m = number("m") if work.mode == "tensor" else None
    constants = (
        (parameter("Scale", (1,)), parameter("Zero", (1,), "int32")) if work.mode == "static" else None
    )
    q = handle("q")
    scales, zeros = (None, None) if constants else (handle("scales"), handle("zeros"))
    tiles: Any = tirx.Var("tiles", "int64")
    x = matched("X", x, (tiles, work.features, LANES))
    q = matched("Q", q, (tiles, work.features, LANES), "uint8")
    if scales is not None:
        scales = matched("S", scales, (tiles, LANES))
        zeros = matched("Z", zeros, (tiles, LANES), "int32")
    if m is not None:
        with opaque("range"):
            ends = _Range()
            with loop("tile", tiles) as tile:
                ends.widen_all(x, tile, work.features, m)
            low, high = ends.across()
            with loop("tile", tiles) as tile:
                _store_scale(work, scales, zeros, tile, low, high)
    with parallel("tile", tiles) as tile, opaque("quantize"):
        if work.mode == "token":
            ends = _Range()
            ends.widen_all(x, tile, work.features, None)
            _store_scale(work, scales, zeros, tile, *ends.lanes())
        rounding = _Rounding.of(work, constants, scales, zeros, tile)
        with loop("k", work.features) as k:
            store(q, [tile, k, vector()], rounding.integers(x[tile, k, vector()]).astype("uint8x16"))


class _Range:
    """The least and the largest value so far, in each lane; 0 is always among them."""

    def __init__(self) -> None:
        self.low, self.high = scratch("low", LANES), scratch("high", LANES)
        for side in (self.low, self.high):
            store(side, [vector()], splat(tirx.const(0, "float32")))

    def widen_all(self, x: Any, tile: Any, features: int, m: Any) -> None:
        """By all features of a tile; m: tokens that exist, None where lanes past them do no harm."""
        with loop("k", features) as k:
            value = x[tile, k, vector()]
            if m is not None:
                token = vector(tile * LANES)
                value = tirx.Select(token < splat(m), value, splat(tirx.const(0, "float32")))
            store(self.low, [vector()], tirx.min(self.low[vector()], value))
            store(self.high, [vector()], tirx.max(self.high[vector()], value))

    def lanes(self) -> tuple[Any, Any]:
        return self.low[vector()], self.high[vector()]

    def across(self) -> tuple[Any, Any]:
        """Of all lanes, in all lanes."""
        low, high = self.low[0], self.high[0]
        for lane in range(1, LANES):
            low, high = tirx.min(low, self.low[lane]), tirx.max(high, self.high[lane])
        return splat(low), splat(high)


def _store_scale(work: QuantizeWork, scales: Any, zeros: Any, tile: Any, low: Any, high: Any) -> None:
    """scale = (high - low) / levels, 1 where that is 0 (or tiny); zero = round(-low / scale)."""
    low, high = T.bind(low), T.bind(high)
    zero, one = (splat(tirx.const(number, "float32")) for number in (0, 1))
    levels = splat(tirx.const(work.levels, "float32"))
    step = T.bind((high - low) / levels)
    # without a division, scales whose reciprocal is infinite would give NaN
    least = zero if work.divide else splat(tirx.const(TINY, "float32"))
    step = T.bind(tirx.Select(step > least, step, one))
    store(scales, [tile, vector()], step)
    # low <= 0, so that the quotient lies in 0..levels
    store(zeros, [tile, vector()], _rounded(tirx.min(levels, (zero - low) / step)))


@dataclass(frozen=True)
class _Rounding:
    """Scale (or its reciprocal) and bounds as vectors."""

    factor: Any
    divide: bool
    zero: Any
    least: Any
    most: Any

    @classmethod
    def of(cls, work: QuantizeWork, constants: Any, scales: Any, zeros: Any, tile: Any) -> _Rounding:
        if constants is not None:
            scale, zero = splat(constants[0][0]), splat(constants[1][0])
        else:
            scale, zero = scales[tile, vector()], zeros[tile, vector()]
        scale, zero = T.bind(scale), T.bind(zero)
        factor = scale if work.divide else T.bind(splat(tirx.const(1, "float32")) / scale)
        least = T.bind((zero * splat(tirx.const(-1, "int32"))).astype("float32x16"))
        most = T.bind(least + splat(tirx.const(work.levels, "float32")))
        return cls(factor, work.divide, zero, least, most)

    def integers(self, x: Any) -> Any:
        value = x / self.factor if self.divide else x * self.factor
        # the bounds are whole, so that rounding after them stays within
        return _rounded(tirx.min(self.most, tirx.max(self.least, value))) + self.zero


def _rounded(value: Any) -> Any:
    """The nearest i32, ties to even, of f32 below 2^22."""
    shifted = tirx.reinterpret(f"int32x{LANES}", value + splat(tirx.const(ROUND, "float32")))
    return shifted - splat(tirx.const(ROUND_BITS, "int32"))
