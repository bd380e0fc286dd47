"""Lookups against numpy, with row numbers that are negative or out of range."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st

from espalier.schedules.x86.embedding import EmbeddingWork, Lookup, embedding
from espalier.targets.x86.classes import core_classes

pytestmark = pytest.mark.compile

WORKS = {
    "one": EmbeddingWork(6, (Lookup(50),)),
    "bert": EmbeddingWork(40, (Lookup(50), Lookup(70, "place", first=2), Lookup(2, "int32"))),
}


@pytest.fixture(scope="module")
def library() -> tvm.runtime.Executable:
    cpu = core_classes()["x86-64-v3"].cpu
    mod = tvm.IRModule()
    for name, work in WORKS.items():
        mod[name] = embedding(work, cpu, name).with_attr("global_symbol", name)
    return tvm.compile(mod, target=tvm.target.Target({"kind": "llvm", "mcpu": cpu.mcpu}))


@given(
    name=st.sampled_from(list(WORKS)),
    batch=st.integers(1, 4),
    sequence=st.integers(1, 60),
    far=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_equals_numpy(
    library: tvm.runtime.Executable, name: str, batch: int, sequence: int, far: bool, seed: int
) -> None:
    work, m = WORKS[name], batch * sequence
    rng = np.random.default_rng(seed)
    arguments, expected = [], np.zeros((m, work.features), np.float32)
    for lookup in work.lookups:
        table = rng.standard_normal((lookup.rows, work.features)).astype(np.float32)
        arguments.append(tvm.runtime.tensor(table))
        if lookup.index == "place":
            rows = lookup.first + np.arange(m) % sequence
        else:
            reach = 10**9 if far else lookup.rows
            rows = rng.integers(-reach, reach, m).astype(lookup.index)
            arguments.append(tvm.runtime.tensor(rows))
            rows = np.where(rows < 0, rows.astype(np.int64) + lookup.rows, rows)
        expected += table[np.clip(rows, 0, lookup.rows - 1)]
    if name == "bert":
        arguments.append(sequence)
    y = tvm.runtime.tensor(np.zeros(((m + 15) // 16, work.features, 16), np.float32))
    library[name](*arguments, y)
    tokens = y.numpy().transpose(0, 2, 1).reshape(-1, work.features)
    np.testing.assert_allclose(tokens[:m], expected, rtol=1e-6, atol=1e-6)
    assert np.isfinite(tokens).all()


def test_places_alone_are_refused() -> None:
    with pytest.raises(ValueError, match="given row numbers"):
        EmbeddingWork(8, (Lookup(9, "place"),))
