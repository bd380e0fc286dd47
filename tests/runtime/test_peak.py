"""The clock and the peak that kernels are judged by."""

from __future__ import annotations

import mmap

import pytest

from espalier.runtime import clock
from espalier.runtime.clock import measured_ghz
from espalier.runtime.peak import Peak, peak
from espalier.targets.host import host

pytestmark = pytest.mark.unit


def test_the_clock_is_that_of_a_processor_and_holds_still() -> None:
    first, second = measured_ghz(), measured_ghz()
    assert first is not None and second is not None
    assert 0.5 < first < 8 and second == pytest.approx(first, rel=0.5)


def test_a_longer_chain_takes_longer_in_proportion() -> None:
    """What is timed is the chain, not the call."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock, "TURNS", clock.TURNS // 10)
        short = measured_ghz()
    assert short == pytest.approx(measured_ghz(), rel=0.5)


def test_the_base_clock_stands_in_where_no_code_can_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise PermissionError("not executable")

    monkeypatch.setattr(mmap, "mmap", refuse)
    found = peak(3)
    assert (found.threads, found.clock_ghz) == (3, host().clock_ghz)
    assert found.clock.startswith("the base clock")
    assert found.gflops(integers=False) == pytest.approx(3 * host().peak_gflops)


def test_no_code_is_run_on_another_kind_of_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock.platform, "machine", lambda: "aarch64")
    assert measured_ghz() is None


def test_integers_have_a_peak_of_their_own_only_with_vnni() -> None:
    without = Peak(1, 2.0, "", 16, vnni=False)
    assert without.gflops(integers=True) == without.gflops(integers=False) == 32
    assert "int8" not in without.text()
    assert Peak(1, 2.0, "", 16, vnni=True).gflops(integers=True) == 128
    assert without.to_dict()["gflops"] == 32


def test_without_a_number_of_threads_it_is_of_all_cores() -> None:
    assert peak(None).threads == host().cores
