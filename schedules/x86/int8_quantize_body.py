"""How activations become integers: see int8_quantize.py."""

from __future__ import annotations

from collections.abc import Callable
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
    static = work.mode == "static"
    x = handle("x")
    m = number("m") if work.mode == "tensor" else None
    if static and work.divide:
        factors: Any = parameter("Scale", (1,))
    else:
        factors = None if work.divide else parameter("Factors", (work.features,))
    zero: Any = parameter("Zero", (1,), "int32") if static else None
    q = handle("q")
    scales: Any
    zeros: Any
    scales, zeros = (None, None) if static else (handle("scales"), handle("zeros"))
    tiles: Any = tirx.Var("tiles", "int64")
    x = matched("X", x, (tiles, work.features, LANES))
    q = matched("Q", q, (tiles, work.features, LANES), "float32" if work.back else "uint8")
    if not static:
        scales = matched("S", scales, (tiles, LANES))
        zeros = matched("Z", zeros, (tiles, LANES), "int32")

    def value(tile: Any, k: Any) -> Any:
        """x times its feature's factor."""
        result = x[tile, k, vector()]
        return result if work.divide else result * splat(factors[k])

    if m is not None:
        with opaque("range"):
            ends = _Range()
            with loop("tile", tiles) as tile:
                ends.widen(lambda k: _existing(value(tile, k), tile, m), work.features)
            low, high = ends.across()
            with loop("tile", tiles) as tile:
                _store_scale(work, scales, zeros, tile, low, high)
    with parallel("tile", tiles) as tile, opaque("quantize"):
        if work.mode == "token":
            ends = _Range()
            ends.widen(lambda k: value(tile, k), work.features)
            _store_scale(work, scales, zeros, tile, *ends.lanes())
        if static:
            scale = splat(factors[0]) if work.divide else None
            rounding = _Rounding.of(work, scale, splat(zero[0]))
        else:
            rounding = _Rounding.of(work, scales[tile, vector()], zeros[tile, vector()])
        with loop("k", work.features) as k:
            one = value(tile, k)
            put = rounding.floats(one) if work.back else rounding.integers(one).astype("uint8x16")
            store(q, [tile, k, vector()], put)


def _existing(value: Any, tile: Any, m: Any) -> Any:
    """0 in the lanes past m tokens."""
    return tirx.Select(vector(tile * LANES) < splat(m), value, splat(tirx.const(0, "float32")))


class _Range:
    """The least and the largest value so far, in each lane; 0 is always among them."""

    def __init__(self) -> None:
        self.low, self.high = scratch("low", LANES), scratch("high", LANES)
        for side in (self.low, self.high):
            store(side, [vector()], splat(tirx.const(0, "float32")))

    def widen(self, value: Callable[[Any], Any], features: int) -> None:
        """By `value(feature)` of all features."""
        with loop("k", features) as k:
            one = value(k)
            store(self.low, [vector()], tirx.min(self.low[vector()], one))
            store(self.high, [vector()], tirx.max(self.high[vector()], one))

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
    """scale: or its reciprocal; None where it is in the values. least, most: bounds as vectors."""

    scale: Any
    divide: bool
    zero: Any
    least: Any
    most: Any

    @classmethod
    def of(cls, work: QuantizeWork, scale: Any, zero: Any) -> _Rounding:
        zero = T.bind(zero)
        if scale is not None:
            scale = T.bind(scale if work.divide else splat(tirx.const(1, "float32")) / scale)
        least = T.bind((zero * splat(tirx.const(-1, "int32"))).astype("float32x16"))
        most = T.bind(least + splat(tirx.const(work.levels, "float32")))
        return cls(scale, work.divide, zero, least, most)

    def integers(self, x: Any) -> Any:
        return self._centred(x) + self.zero

    def floats(self, x: Any) -> Any:
        """What the integers stand for; only where x is divided by the scale."""
        return self._centred(x).astype(f"float32x{LANES}") * self.scale

    def _centred(self, x: Any) -> Any:
        """Integers from which the zero point is taken."""
        if self.scale is not None:
            x = x / self.scale if self.divide else x * self.scale
        # the bounds are whole, so that rounding after them stays within
        return _rounded(tirx.min(self.most, tirx.max(self.least, x)))


def _rounded(value: Any) -> Any:
    """The nearest i32, ties to even, of f32 below 2^22."""
    shifted = tirx.reinterpret(f"int32x{LANES}", value + splat(tirx.const(ROUND, "float32")))
    return shifted - splat(tirx.const(ROUND_BITS, "int32"))
