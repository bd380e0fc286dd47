"""The table of `espalier run --profile`."""

from __future__ import annotations

import io
from contextlib import redirect_stdout

import pytest

from espalier.cli.options import Output
from espalier.cli.profile import profile_rows, tell_profile
from espalier.package.metadata import LayerInfo
from espalier.runtime.executor import CallTime
from espalier.runtime.peak import Peak

pytestmark = pytest.mark.unit

PEAK = Peak(threads=2, clock_ghz=2.0, clock="a guess", flops_per_cycle=16, vnni=True)


def layer(name: str, kernel: str, **fields: object) -> LayerInfo:
    return LayerInfo(name=name, structure="dense", kernel=kernel, candidates={}, how="rule", **fields)


def test_layers_are_named_in_the_order_of_their_calls() -> None:
    layers = [layer("fc1", "f32-hp-r4m4"), layer("fc2", "f32-dense-r6m1"), layer("fc3", "f32-hp-r4m4")]
    kernels = ["to_tiles_64_0", "f32_hp_r4m4_1", "add", "f32_dense_r6m1_2", "f32_hp_r4m4_1", "f32_hp_r4m4_1"]
    rows = profile_rows([CallTime(kernel, 1.0) for kernel in kernels], layers, {}, PEAK)
    assert [row["layer"] for row in rows] == [None, "fc1", None, "fc2", "fc3", None]
    assert all("of_peak" not in row for row in rows)


def test_the_share_of_peak_counts_weights_that_are_not_zero() -> None:
    layers = [
        layer("a", "f32-row-r2", nonzeros=1000, rows=("batch", 4, "length")),
        layer("b", "u8-row-r2", nonzeros=1000, rows=("length",)),
        layer("c", "f32-row-r2", nonzeros=1000),
    ]
    calls = [CallTime(f"{one.kernel.replace('-', '_')}_0", 0.5) for one in layers]
    a, b, c = profile_rows(calls, layers, {"batch": 2, "length": 100}, PEAK)
    assert a["gflops"] == pytest.approx(2 * 1000 * 800 / 0.5e-3 / 1e9)
    assert a["of_peak"] == pytest.approx(a["gflops"] / 64)
    assert b["of_peak"] == pytest.approx(2 * 1000 * 100 / 0.5e-3 / 1e9 / 256)
    assert "of_peak" not in c


def test_what_the_share_is_of_is_told_below_the_table() -> None:
    layers = [layer("fc", "f32-row-r2", nonzeros=10**6, rows=(16,))]
    calls = [CallTime("add", 1.0), CallTime("f32_row_r2_0", 1.0, figures={"cycles": 7})]
    told = io.StringIO()
    with redirect_stdout(told):
        tell_profile(profile_rows(calls, layers, {}, PEAK), PEAK, Output(json=False, quiet=False))
    lines = told.getvalue().splitlines()
    assert lines[0].split() == ["layer", "kernel", "ms", "share", "of", "peak", "cycles"]
    assert lines[2].split()[-3:] == ["50.0", "%", "7"]
    assert lines[-1].endswith(
        "against 64 GFLOP/s f32, 256 int8 by VNNI: 2 threads x 2 GHz (a guess) x 16 a cycle"
    )
