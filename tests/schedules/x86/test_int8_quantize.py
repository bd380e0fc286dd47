"""Quantisation of activations against its definition in numpy f32, bit for bit."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from int8_oracle import tiles, tokens

from espalier.schedules.x86.int8_quantize import QuantizeWork, quantize_tiles

pytestmark = pytest.mark.compile

K = 21
F32 = np.float32
WORKS = [
    QuantizeWork(K, levels, mode, divide)
    for mode in ("static", "token", "tensor")
    for levels, divide in ((255, True), (127, False))
    if divide or mode != "tensor"  # which only models ask for
]
BACK = [QuantizeWork(K, 255, mode, divide=True, back=True) for mode in ("static", "tensor")]


@cache
def built(work: QuantizeWork) -> Any:
    import tvm

    target = tvm.target.Target({"kind": "llvm", "mcpu": "znver1"})
    return tvm.compile(quantize_tiles(work, "quantize"), target=target)["quantize"]


def reference(x: np.ndarray, scale: np.ndarray, zero: np.ndarray, work: QuantizeWork) -> np.ndarray:
    value = x / scale if work.divide else x * (F32(1) / scale)
    return np.clip(np.rint(value) + zero, 0, work.levels)


@pytest.mark.parametrize("work", BACK, ids=lambda work: work.mode)
@settings(max_examples=20)
@given(count=st.integers(1, 40), seed=st.integers(0, 10**6))
def test_what_integers_stand_for(work: QuantizeWork, count: int, seed: int) -> None:
    import tvm

    x = (np.random.default_rng(seed).standard_normal((count, K)) * 3).astype(F32)
    y = tvm.runtime.tensor(tiles(np.full((count, K), np.nan, F32)))
    arguments = [tvm.runtime.tensor(tiles(x, np.nan))]
    if work.mode == "static":
        scale, zero = np.full((count, 1), 0.03, F32), np.full((count, 1), 41)
        told = (scale[0], zero[0].astype(np.int32))
        built(work)(*arguments, *map(tvm.runtime.tensor, told), y)
    else:
        scale, zero = ranged(x, work)
        out = [tvm.runtime.tensor(np.zeros((y.shape[0], 16), dtype)) for dtype in (F32, np.int32)]
        built(work)(*arguments, count, y, *out)
    want = (reference(x, scale, zero, work) - zero).astype(F32) * scale
    np.testing.assert_array_equal(tokens(y.numpy(), count), want)


def ranged(x: np.ndarray, work: QuantizeWork) -> tuple[np.ndarray, np.ndarray]:
    """(scale, zero) `[M, 1]` for the range of each token, or of all."""
    axis = 1 if work.mode == "token" else None
    low = np.minimum(x.min(axis=axis, keepdims=True), F32(0))
    high = np.maximum(x.max(axis=axis, keepdims=True), F32(0))
    scale = (high - low) / F32(work.levels)
    scale = np.where(scale > (0 if work.divide else 1e-37), scale, F32(1)).astype(F32)
    zero = np.rint(np.minimum(F32(work.levels), -low / scale))
    return np.broadcast_to(scale, (len(x), 1)), np.broadcast_to(zero, (len(x), 1))


@pytest.mark.parametrize("work", WORKS, ids=lambda work: f"{work.mode}-{work.levels}")
@settings(max_examples=20)
@given(
    count=st.integers(1, 40),
    seed=st.integers(0, 10**6),
    shift=st.sampled_from([0.0, 5.0, -5.0]),
    size=st.sampled_from([1.0, 0.0, 1e-38, 1e30]),
)
def test_bit_for_bit(work: QuantizeWork, count: int, seed: int, shift: float, size: float) -> None:
    import tvm

    rng = np.random.default_rng(seed)
    x = ((rng.standard_normal((count, K)) + shift) * size).astype(F32)
    factors = np.exp2(rng.uniform(-2, 2, K)).astype(F32)
    q = tvm.runtime.tensor(tiles(np.zeros((count, K), np.uint8), 9))
    arguments: list[Any] = [tvm.runtime.tensor(tiles(x, np.nan))]
    if work.mode == "static":
        scale, zero = np.array([0.03], F32), np.array([41], np.int32)
        told = scale if work.divide else factors / scale
        built(work)(*arguments, *map(tvm.runtime.tensor, (told, zero)), q)
        value = x / told if work.divide else x * told
        want = np.clip(np.rint(value) + zero, 0, work.levels)
        np.testing.assert_array_equal(tokens(q.numpy(), count), want)
        return
    if work.mode == "tensor":
        arguments.append(count)
    if not work.divide:
        arguments.append(tvm.runtime.tensor(factors))
        x = x * factors
    scales = tvm.runtime.tensor(np.zeros((q.shape[0], 16), F32))
    zeros = tvm.runtime.tensor(np.zeros((q.shape[0], 16), np.int32))
    built(work)(*arguments, q, scales, zeros)
    scale, zero = ranged(x, work)
    np.testing.assert_array_equal(scales.numpy().reshape(-1, 1)[:count], scale)
    np.testing.assert_array_equal(zeros.numpy().reshape(-1, 1)[:count], zero)
    np.testing.assert_array_equal(tokens(q.numpy(), count), reference(x, scale, zero, work))
