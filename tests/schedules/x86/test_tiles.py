"""To tiles and back, for any number of tokens."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st

from espalier.schedules.x86.square import transposition
from espalier.schedules.x86.tiles import from_tiles, to_tiles
from espalier.targets.x86.classes import core_classes

pytestmark = pytest.mark.compile

WIDTHS = [1, 6, 12, 17, 40]


@pytest.fixture(scope="module", params=["x86-64-v2", "x86-64-v3"])
def library(request: pytest.FixtureRequest) -> tvm.runtime.Executable:
    cpu = core_classes()[request.param].cpu
    mod = tvm.IRModule()
    for k in WIDTHS:
        for make, name in ((to_tiles, f"to_{k}"), (from_tiles, f"from_{k}")):
            mod[name] = make(k, cpu, name).with_attr("global_symbol", name)
    return tvm.compile(mod, target=tvm.target.Target({"kind": "llvm", "mcpu": cpu.mcpu}))


def _tiles(x: np.ndarray) -> np.ndarray:
    m, k = x.shape
    padded = np.zeros(((m + 15) // 16 * 16, k), np.float32)
    padded[:m] = x
    return padded.reshape(-1, 16, k).transpose(0, 2, 1).copy()


@given(m=st.integers(1, 200), k=st.sampled_from(WIDTHS))
@settings(max_examples=60, deadline=None)
def test_to_tiles_and_back(library: tvm.runtime.Executable, m: int, k: int) -> None:
    x = np.random.default_rng(m).standard_normal((m, k)).astype(np.float32)
    x[m // 2, k // 2] = np.nan
    tiles = tvm.runtime.tensor(np.full(((m + 15) // 16, k, 16), np.nan, np.float32))
    library[f"to_{k}"](tvm.runtime.tensor(x), tiles)
    np.testing.assert_array_equal(tiles.numpy(), _tiles(x))
    back = tvm.runtime.tensor(np.zeros((m, k), np.float32))
    library[f"from_{k}"](tiles, back)
    np.testing.assert_array_equal(back.numpy(), x)


@pytest.mark.parametrize("width", [1, 2, 4, 8, 16])
def test_the_shuffles_are_atransposition(width: int) -> None:
    values = {f"r{i}": [(i, j) for j in range(width)] for i in range(width)}
    moves, columns = transposition(width)
    for result, left, right, lanes in moves:
        values[result] = [(values[left] + values[right])[lane] for lane in lanes]
    assert [values[column] for column in columns] == [[(i, j) for i in range(width)] for j in range(width)]
