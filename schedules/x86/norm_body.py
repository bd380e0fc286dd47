"""How normalisation runs: tile by tile, in as many passes over a tile as it takes; the first leaves it in L1.

The variance is taken about the mean, in a pass of its own, so that an offset of x costs no precision.
"""

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
    splat,
    store,
    vector,
)
from espalier.schedules.x86.norm import NormWork

CHAINS = 4
"""Sums that run side by side: they hide the latency of an addition, and round less than one sum."""


def emit(work: NormWork, centred: bool) -> None:
    """Parameters and statements of the layer norm (centred) or the RMS norm."""
    x = handle("x")
    gain = parameter("Gain", (work.features,))
    bias = parameter("Bias", (work.features,)) if centred else None
    residual = handle("residual") if work.residual else None
    y = handle("y")
    shape = (tirx.Var("tiles", "int64"), work.features, LANES)
    x = matched("X", x, shape)
    residual = None if residual is None else matched("Residual", residual, shape)
    y = matched("Y", y, shape)
    with parallel("tile", shape[0]) as tile, opaque("norm"):
        sums = Vectors("sums", CHAINS)
        state = Vectors("state", 2)
        source = x if residual is None else y

        def fetch(k: Any) -> Any:
            """x of the first pass; with a residual it is stored for the others."""
            if residual is not None:
                store(y, [tile, k, vector()], x[tile, k, vector()] + residual[tile, k, vector()])
            return source[tile, k, vector()]

        def again(k: Any) -> Any:
            value = source[tile, k, vector()]
            return value - state[0] if centred else value

        if centred:
            _add_up(sums, work.features, fetch)
            state[0] = _mean(sums, work.features)
            _add_up(sums, work.features, lambda k: again(k) * again(k))
        else:
            _add_up(sums, work.features, lambda k: fetch(k) * again(k))
        one, epsilon = splat(T.float32(1.0)), splat(T.float32(work.epsilon))
        state[1] = one / T.sqrt(_mean(sums, work.features) + epsilon)
        with loop("k", work.features) as k:
            value = again(k) * state[1] * splat(gain[k])
            store(y, [tile, k, vector()], value if bias is None else value + splat(bias[k]))


def _add_up(sums: Vectors, features: int, value: Callable[[Any], Any]) -> None:
    """Sum `value(feature)` over all features, CHAINS at a time."""
    for i in range(CHAINS):
        sums[i] = splat(T.float32(0.0))
    if features >= CHAINS:
        with loop("j", features // CHAINS) as j:
            for i in range(CHAINS):
                sums[i] += value(j * CHAINS + i)
    for i in range(features % CHAINS):
        sums[i] += value(features // CHAINS * CHAINS + i)


def _mean(sums: Vectors, features: int) -> Any:
    return (sums[0] + sums[1] + (sums[2] + sums[3])) * splat(T.float32(1 / features))
