"""Normalisation against float64, lane by lane."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st

from espalier.schedules.x86.norm import NormWork, layer_norm, layer_norm_rows, rms_norm
from espalier.targets.x86.classes import core_classes

pytestmark = pytest.mark.compile

WORKS = {
    f"{make.__name__}_{work.features}_{int(work.residual)}": (make, work)
    for make in (layer_norm, rms_norm)
    for work in (
        NormWork(3, 1e-5),
        NormWork(48, 1e-12),
        NormWork(50, 1e-5, residual=True),
        NormWork(384, 1e-5),
    )
}
ROWS = (1, 3, 16, 31, 33, 50, 96, 768)
"""Features of the kernels over rows."""


@pytest.fixture(scope="module")
def library() -> tvm.runtime.Executable:
    cpu = core_classes()["x86-64-v3"].cpu
    mod = tvm.IRModule()
    for name, (make, work) in WORKS.items():
        mod[name] = make(work, cpu, name).with_attr("global_symbol", name)
    for features in ROWS:
        name = f"rows_{features}"
        rows = layer_norm_rows(NormWork(features, 1e-5), cpu, name)
        mod[name] = rows.with_attr("global_symbol", name)
    return tvm.compile(mod, target=tvm.target.Target({"kind": "llvm", "mcpu": cpu.mcpu}))


def _run(
    library: tvm.runtime.Executable, name: str, x: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(result, reference in float64, what the input is multiplied by)"""
    make, work = WORKS[name]
    gain, bias = rng.standard_normal((2, work.features)).astype(np.float32)
    residual = rng.standard_normal(x.shape).astype(np.float32) if work.residual else None
    arrays = [x, gain] + ([bias] if make is layer_norm else []) + ([residual] if work.residual else [])
    y = tvm.runtime.tensor(np.zeros_like(x))
    library[name](*(tvm.runtime.tensor(a) for a in arrays), y)
    with np.errstate(invalid="ignore"):
        exact = x.astype(np.float64) + (0 if residual is None else residual)
        if make is layer_norm:
            exact = exact - exact.mean(axis=1, keepdims=True)
        factor = gain[:, None] / np.sqrt((exact**2).mean(axis=1, keepdims=True) + work.epsilon)
        return y.numpy(), exact * factor + (bias[:, None] if make is layer_norm else 0), factor


@given(
    name=st.sampled_from(list(WORKS)),
    tiles=st.integers(1, 4),
    offset=st.sampled_from([0.0, 3.0, -100.0]),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_equals_float64(
    library: tvm.runtime.Executable, name: str, tiles: int, offset: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x = (offset + rng.standard_normal((tiles, WORKS[name][1].features, 16))).astype(np.float32)
    result, exact, factor = _run(library, name, x, rng)
    # the mean is known to f32 precision of the offset
    tolerance = 1e-6 + 5e-7 * (abs(offset) + 4) * np.abs(factor)
    assert np.all(np.abs(result - exact) <= tolerance + 1e-6 * np.abs(exact))


@pytest.mark.parametrize("name", WORKS)
def test_nan_stays_in_its_lane(library: tvm.runtime.Executable, name: str) -> None:
    rng = np.random.default_rng(7)
    x = rng.standard_normal((2, WORKS[name][1].features, 16)).astype(np.float32)
    x[1, 2, 5] = np.nan
    x[0, 0, 9] = np.inf
    result, _, _ = _run(library, name, x, rng)
    bad = np.isnan(result).any(axis=1)
    assert bad[1, 5] and bad[0, 9] and bad.sum() == 2


@given(
    features=st.sampled_from(ROWS),
    tokens=st.integers(1, 5),
    offset=st.sampled_from([0.0, 3.0, -100.0]),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_rows_equal_float64(
    library: tvm.runtime.Executable, features: int, tokens: int, offset: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((tokens, features)) + offset).astype(np.float32)
    gain, bias = rng.standard_normal((2, features)).astype(np.float32)
    y = tvm.runtime.tensor(np.full_like(x, np.nan))
    library[f"rows_{features}"](*(tvm.runtime.tensor(a) for a in (x, gain, bias)), y)
    exact = x.astype(np.float64)
    exact -= exact.mean(axis=1, keepdims=True)
    factor = gain / np.sqrt((exact**2).mean(axis=1, keepdims=True) + 1e-5)
    exact = exact * factor + bias
    tolerance = 1e-6 + 5e-7 * (abs(offset) + 4) * np.abs(factor)
    assert np.all(np.abs(y.numpy() - exact) <= tolerance + 1e-6 * np.abs(exact))
