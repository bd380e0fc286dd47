"""Attention against float64, for batches and sequences that straddle tiles."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from hypothesis import example, given, settings
from hypothesis import strategies as st

from espalier.schedules.x86.attention import AttentionWork, Channels, Mask, attention
from espalier.targets.x86.classes import core_classes

pytestmark = pytest.mark.compile

FUSED = {"query": Channels(30, 1), "key": Channels(30, 9), "value": Channels(30, 18)}
WORKS = {
    "plain": AttentionWork(2, 8, 8, 0.35),
    "odd": AttentionWork(3, 5, 7, 0.4, Mask("add", batch=True, heads=False, queries=False)),
    "causal": AttentionWork(2, 4, 4, 0.5, causal=True),
    "fused": AttentionWork(2, 4, 6, 0.5, Mask("add", batch=False, heads=True, queries=True), **FUSED),
    "keep": AttentionWork(2, 4, 4, 0.5, Mask("keep", batch=True, heads=False, queries=False)),
    "keep_each": AttentionWork(
        2, 4, 4, 0.5, Mask("keep", batch=True, heads=True, queries=True), nan_to_zero=True
    ),
    "shared": AttentionWork(
        1, 4, 4, 0.5, Mask("add", batch=False, heads=False, queries=False), causal=True, nan_to_zero=True
    ),
}


@pytest.fixture(scope="module")
def library() -> tvm.runtime.Executable:
    cpu = core_classes()["x86-64-v3"].cpu
    mod = tvm.IRModule()
    for name, work in WORKS.items():
        mod[name] = attention(work, cpu, name).with_attr("global_symbol", name)
    return tvm.compile(mod, target=tvm.target.Target({"kind": "llvm", "mcpu": cpu.mcpu}))


def _tiles(x: np.ndarray) -> np.ndarray:
    """[M, K] as tiles, with NaN in the lanes that nobody may read."""
    m, k = x.shape
    padded = np.full(((m + 15) // 16 * 16, k), np.nan, np.float32)
    padded[:m] = x
    return padded.reshape(-1, 16, k).transpose(0, 2, 1).copy()


def _tokens(tiles: np.ndarray, m: int) -> np.ndarray:
    return tiles.transpose(0, 2, 1).reshape(-1, tiles.shape[1])[:m]


def _mask(mask: Mask, batch: int, heads: int, sequence: int, rng: np.random.Generator) -> np.ndarray:
    shape = (
        batch if mask.batch else 1,
        heads if mask.heads else 1,
        sequence if mask.queries else 1,
        sequence,
    )
    if mask.kind == "keep":
        return rng.random(shape) < 0.6
    values = rng.standard_normal(shape)
    values[rng.random(shape) < 0.3] = rng.choice([-np.inf, np.finfo(np.float32).min, -10000])
    return values.astype(np.float32)


def _exact(
    work: AttentionWork, parts: list[np.ndarray], mask: np.ndarray | None, batch: int, sequence: int
) -> np.ndarray:
    def heads(x: np.ndarray, channels: Channels | None, width: int) -> np.ndarray:
        first = channels.first if channels else 0
        x = x[:, first : first + work.heads * width].astype(np.float64)
        return x.reshape(batch, sequence, work.heads, width).transpose(0, 2, 1, 3)

    q = heads(parts[0], work.query, work.head_dim)
    k = heads(parts[1], work.key, work.head_dim)
    v = heads(parts[2], work.value, work.value_dim)
    scores = q @ k.transpose(0, 1, 3, 2) * work.scale
    if mask is not None:
        scores = scores + mask if mask.dtype == np.float32 else np.where(mask, scores, -np.inf)
    # as f32: a mask of the lowest number swallows the scores
    scores = scores.astype(np.float32).astype(np.float64)
    if work.causal:
        scores = np.where(np.tri(sequence, dtype=bool), scores, -np.inf)
    with np.errstate(invalid="ignore"):
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights = weights / weights.sum(axis=-1, keepdims=True)
    if work.nan_to_zero:
        weights = np.where(np.isnan(weights), 0, weights)
    return (weights @ v).transpose(0, 2, 1, 3).reshape(batch * sequence, -1)


def _check(library: tvm.runtime.Executable, name: str, batch: int, sequence: int, seed: int) -> None:
    work = WORKS[name]
    rng = np.random.default_rng(seed)
    m = batch * sequence
    widths = [
        channels.total if channels else work.heads * width
        for channels, width in (
            (work.query, work.head_dim),
            (work.key, work.head_dim),
            (work.value, work.value_dim),
        )
    ]
    parts = [rng.standard_normal((m, width)).astype(np.float32) for width in widths]
    mask = _mask(work.mask, batch, work.heads, sequence, rng) if work.mask else None
    y = tvm.runtime.tensor(np.zeros(((m + 15) // 16, work.heads * work.value_dim, 16), np.float32))
    arrays = [_tiles(part) for part in parts] + ([mask] if mask is not None else [])
    library[name](*(tvm.runtime.tensor(a) for a in arrays), batch, sequence, y)
    np.testing.assert_allclose(
        _tokens(y.numpy(), m), _exact(work, parts, mask, batch, sequence), rtol=1e-5, atol=3e-6
    )


@given(
    name=st.sampled_from(list(WORKS)),
    batch=st.integers(1, 4),
    sequence=st.sampled_from([1, 2, 7, 15, 16, 17, 32, 33, 48, 100, 128, 130, 144, 150, 300]),
    seed=st.integers(0, 99),
)
@settings(max_examples=120, deadline=None)
@example(name="odd", batch=3, sequence=150, seed=1)
@example(name="keep_each", batch=1, sequence=2, seed=3)
def test_equals_float64(
    library: tvm.runtime.Executable, name: str, batch: int, sequence: int, seed: int
) -> None:
    _check(library, name, batch, sequence, seed)


def test_nan_stays_in_its_query_and_batch(library: tvm.runtime.Executable) -> None:
    work, batch, sequence = WORKS["plain"], 3, 21
    rng = np.random.default_rng(1)
    parts = [rng.standard_normal((batch * sequence, 16)).astype(np.float32) for _ in range(3)]
    parts[0][sequence + 4, 3] = np.nan
    y = tvm.runtime.tensor(np.zeros((4, 16, 16), np.float32))
    library["plain"](*(tvm.runtime.tensor(_tiles(part)) for part in parts), batch, sequence, y)
    bad = np.isnan(_tokens(y.numpy(), batch * sequence))
    assert bad[sequence + 4, :8].all()
    assert bad.sum() == 8
    assert work.heads * work.value_dim == 16
