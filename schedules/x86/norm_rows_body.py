"""How normalisation runs over rows of tokens: the features of a token lie side by side, 16 in a vector."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from espalier.schedules.x86.build import (
    LANES,
    Vectors,
    handle,
    loop,
    matched,
    opaque,
    parallel,
    parameter,
    scratch,
    splat,
    store,
    vector,
)
from espalier.schedules.x86.fold import total
from espalier.schedules.x86.norm import NormWork

CHAINS = 2
"""Sums that run side by side."""


def emit(work: NormWork) -> None:
    """Parameters and statements of the layer norm. The variance is taken about the mean, in its own pass."""
    size = work.features
    x = handle("x")
    gain, bias = parameter("Gain", (size,)), parameter("Bias", (size,))
    y = handle("y")
    tokens = tirx.Var("m", "int64")
    x, y = matched("X", x, (tokens, size)), matched("Y", y, (tokens, size))
    with parallel("token", tokens) as token, opaque("norm"):
        sums = Vectors("sums", CHAINS)
        state = scratch("state", 3)

        def centred(lanes: Any, places: Any) -> Any:
            value = x[token, places]
            return value - (splat(state[0]) if lanes == LANES else state[0])

        _mean(sums, state, 0, size, lambda _lanes, places: x[token, places])
        _mean(sums, state, 1, size, lambda *at: centred(*at) * centred(*at))
        store(state, [2], T.float32(1.0) / T.sqrt(state[1] + T.float32(work.epsilon)))

        def result(lanes: Any, places: Any) -> None:
            scale = splat(state[2]) if lanes == LANES else state[2]
            store(y, [token, places], centred(lanes, places) * scale * gain[places] + bias[places])

        with loop("j", size // LANES) as j:
            result(LANES, vector(j * LANES))
        with loop("k", size, size // LANES * LANES) as k:
            result(1, k)


def _mean(sums: Vectors, state: Any, place: int, size: int, value: Callable[[Any, Any], Any]) -> None:
    """state[place] = the mean of `value(lanes, places)` over all features."""
    whole = size // LANES
    for i in range(CHAINS):
        sums[i] = splat(T.float32(0.0))
    with loop("j", whole // CHAINS) as j:
        for i in range(CHAINS):
            sums[i] += value(LANES, vector((j * CHAINS + i) * LANES))
    for i in range(whole % CHAINS):
        sums[i] += value(LANES, vector((whole // CHAINS * CHAINS + i) * LANES))
    store(state, [place], total(sums[0] + sums[1]))
    with loop("k", size, whole * LANES) as k:
        store(state, [place], state[place] + value(1, k))
    store(state, [place], state[place] * T.float32(1 / size))
