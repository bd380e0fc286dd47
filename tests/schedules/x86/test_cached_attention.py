"""Attention over a cache against float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tvm
from hypothesis import example, given, settings
from hypothesis import strategies as st

from espalier.schedules.x86.attention import Mask
from espalier.schedules.x86.cached_attention import CachedAttentionWork, cached_attention
from espalier.targets.x86.classes import core_classes

pytestmark = pytest.mark.compile

PLAIN = CachedAttentionWork(2, 64, 64, 0.125)
WORKS = {
    "plain": PLAIN,
    "odd": CachedAttentionWork(3, 5, 19, 0.4, Mask("add", batch=True, heads=False, queries=False)),
    "long": CachedAttentionWork(1, 48, 112, 0.1),
    "each": replace(PLAIN, mask=Mask("add", batch=True, heads=True, queries=True)),
    "keep": CachedAttentionWork(2, 16, 16, 0.5, Mask("keep", batch=False, heads=False, queries=True)),
    "never": CachedAttentionWork(
        2, 33, 8, 0.5, Mask("keep", batch=False, heads=True, queries=True), nan_to_zero=True
    ),
}


@pytest.fixture(scope="module")
def library() -> tvm.runtime.Executable:
    cpu = core_classes()["x86-64-v3"].cpu
    mod = tvm.IRModule()
    for name, work in WORKS.items():
        mod[name] = cached_attention(work, cpu, name).with_attr("global_symbol", name)
    return tvm.compile(mod, target=tvm.target.Target({"kind": "llvm", "mcpu": cpu.mcpu}))


def _mask(mask: Mask, shape: tuple[int, int, int, int], rng: np.random.Generator) -> np.ndarray:
    batch, heads, tokens, seen = shape
    dims = (
        batch if mask.batch else 1,
        heads if mask.heads else 1,
        tokens if mask.queries else 1,
        seen,
    )
    if mask.kind == "keep":
        return rng.random(dims) < 0.5
    values = rng.standard_normal(dims)
    values[rng.random(dims) < 0.3] = rng.choice([-np.inf, np.finfo(np.float32).min, -10000])
    return values.astype(np.float32)


def _exact(
    work: CachedAttentionWork, parts: list[np.ndarray], mask: np.ndarray | None, batch: int, tokens: int
) -> np.ndarray:
    q, cached_k, cached_v, new_k, new_v = (part.astype(np.float64) for part in parts)
    keys, values = np.concatenate([cached_k, new_k], 2), np.concatenate([cached_v, new_v], 2)
    scores = q @ keys.transpose(0, 1, 3, 2) * work.scale
    if mask is not None:
        scores = scores + mask if mask.dtype == np.float32 else np.where(mask, scores, -np.inf)
    # as f32: a mask of the lowest number swallows the scores
    scores = scores.astype(np.float32).astype(np.float64)
    with np.errstate(invalid="ignore"):
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights = weights / weights.sum(axis=-1, keepdims=True)
    if work.nan_to_zero:
        weights = np.where(np.isnan(weights), 0, weights)
    return (weights @ values).transpose(0, 2, 1, 3).reshape(batch, tokens, -1)


@given(
    name=st.sampled_from(list(WORKS)),
    batch=st.integers(1, 2),
    tokens=st.integers(1, 3),
    past=st.integers(0, 300),
    scale=st.sampled_from([0.1, 1.0, 30.0]),
    seed=st.integers(0, 99),
)
@example(name="plain", batch=1, tokens=1, past=128, scale=1.0, seed=0)
@example(name="long", batch=2, tokens=2, past=0, scale=1.0, seed=1)
@example(name="never", batch=1, tokens=3, past=1, scale=1.0, seed=2)
@settings(max_examples=80, deadline=None)
def test_equals_float64(
    library: tvm.runtime.Executable, name: str, batch: int, tokens: int, past: int, scale: float, seed: int
) -> None:
    """Each part stands at a place of its own among others, which are NaN."""
    work, rng = WORKS[name], np.random.default_rng(seed)
    widths = (work.head_dim, work.head_dim, work.value_dim, work.head_dim, work.value_dim)
    lengths = (tokens, past, past, tokens, tokens)
    parts, arguments, places = [], [], []
    for width, length in zip(widths, lengths, strict=True):
        count = int(rng.integers(1, 4))
        place = int(rng.integers(count))
        part = (scale * rng.standard_normal((batch, work.heads, length, width))).astype(np.float32)
        among = np.full((count, *part.shape), np.nan, np.float32)
        among[place] = part
        parts.append(part)
        places.append(place)
        arguments.append(tvm.runtime.tensor(among))
    mask = _mask(work.mask, (batch, work.heads, tokens, past + tokens), rng) if work.mask else None
    if mask is not None:
        arguments.append(tvm.runtime.tensor(mask))
    y = tvm.runtime.tensor(np.full((batch, tokens, work.heads * work.value_dim), 7, np.float32))
    library[name](*arguments, *places, y)
    exact = _exact(work, parts, mask, batch, tokens)
    # a score is as exact as its largest term, and its error is one of the weight
    loss = 1e-6 * (1 + scale**2 * work.scale * work.head_dim)
    np.testing.assert_allclose(y.numpy(), exact, rtol=1e-5, atol=scale * (2e-6 + loss))
