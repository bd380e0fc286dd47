"""What a machine is, told from what its kernel says."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

from espalier.errors import UnavailableError
from espalier.targets import host as host_module
from espalier.targets.host import host, why_not_here
from espalier.targets.x86 import host as x86_host
from espalier.targets.x86.classes import core_classes, level_features
from espalier.targets.x86.host import describe, match_class, parse_cpuinfo, read_caches

pytestmark = pytest.mark.unit


def cpuinfo(
    vendor: str, family: int, model: int, flags: tuple[str, ...], **more: str
) -> list[dict[str, str]]:
    lines = {
        "vendor_id": vendor,
        "cpu family": str(family),
        "model": str(model),
        "flags": " ".join(flags),
        **more,
    }
    block = "\n".join(f"{key}\t: {value}" for key, value in lines.items())
    return parse_cpuinfo(f"{block}\n\n{block}\n")


IDENTITIES = [
    ("AuthenticAMD", 23, 1, "znver1"),
    ("AuthenticAMD", 23, 0x31, "znver2"),
    ("AuthenticAMD", 25, 1, "znver3"),
    ("AuthenticAMD", 25, 0x11, "znver4"),
    ("AuthenticAMD", 26, 2, "znver5"),
    ("GenuineIntel", 6, 0x8F, "sapphirerapids"),
    ("GenuineIntel", 6, 0x6A, "icelake-server"),
    ("GenuineIntel", 6, 0x3F, "haswell"),
    ("GenuineIntel", 6, 0x2D, "sandybridge"),
]


@pytest.mark.parametrize(("vendor", "family", "model", "name"), IDENTITIES)
def test_a_core_with_all_its_instructions_is_of_its_class(
    vendor: str, family: int, model: int, name: str
) -> None:
    (cpu, second) = cpuinfo(vendor, family, model, core_classes()[name].features)
    assert match_class(cpu).name == name
    assert second == cpu


@pytest.mark.parametrize(
    ("extra", "name"),
    [
        ((), "skylake-avx512"),
        (("avx512_vnni",), "cascadelake"),
        (("avx512_vnni", "avx512_bf16"), "cooperlake"),
    ],
)
def test_classes_with_one_model_number_are_told_by_their_instructions(
    extra: tuple[str, ...], name: str
) -> None:
    cpu = cpuinfo("GenuineIntel", 6, 0x55, (*level_features("x86-64-v4"), *extra))[0]
    assert match_class(cpu).name == name


@pytest.mark.parametrize(
    ("level", "isa"), [("x86-64-v4", "avx512"), ("x86-64-v3", "avx2"), ("x86-64-v2", "sse4")]
)
def test_an_unknown_or_held_back_core_is_generic(level: str, isa: str) -> None:
    unknown = cpuinfo("SomeVendor", 99, 1, level_features(level))[0]
    assert match_class(unknown).name == level
    # a hypervisor that hides AVX-512 from a Zen 4
    if isa != "avx512":
        hidden = cpuinfo("AuthenticAMD", 25, 0x11, level_features(level))[0]
        assert (match_class(hidden).name, match_class(hidden).cpu.isa) == (level, isa)


def test_a_cpu_without_sse4_is_refused() -> None:
    flags = tuple(flag for flag in level_features("x86-64-v2") if flag != "sse4_1")
    with pytest.raises(UnavailableError, match="lacks sse4_1"):
        match_class(cpuinfo("GenuineIntel", 6, 15, flags)[0])


@pytest.mark.parametrize(
    ("more", "base_khz", "clock"),
    [
        ({"bogomips": "3992.50"}, 0, 2.0),
        ({"model name": "Intel(R) Xeon(R) Platinum 8259CL CPU @ 2.50GHz", "bogomips": "5000"}, 0, 2.5),
        ({"bogomips": "4000"}, 3_100_000, 3.1),
        ({}, 0, 2.4),
    ],
)
def test_the_base_clock(more: dict[str, str], base_khz: int, clock: float) -> None:
    cpus = cpuinfo("AuthenticAMD", 25, 1, core_classes()["znver3"].features, **more)
    assert describe(cpus, {}, base_khz, 2).cpu.clock_ghz == clock


def test_the_momentary_clock_changes_nothing() -> None:
    features = core_classes()["znver3"].features
    slow, fast = (
        describe(cpuinfo("AuthenticAMD", 25, 1, features, **{"cpu MHz": mhz, "bogomips": "4000"}), {}, 0, 2)
        for mhz in ("1200.1", "3400.7")
    )
    assert slow == fast


@pytest.mark.parametrize(
    ("siblings", "cores", "allowed", "counted"), [(2, 2, 2, 2), (16, 8, 16, 8), (16, 8, 1, 1)]
)
def test_hyperthreads_are_no_cores(siblings: int, cores: int, allowed: int, counted: int) -> None:
    more = {"siblings": str(siblings), "cpu cores": str(cores)}
    cpus = cpuinfo("AuthenticAMD", 25, 1, core_classes()["znver3"].features, **more)
    assert describe(cpus, {}, 0, allowed).cpu.cores == counted


def test_caches_come_from_the_kernel_where_it_tells_them(tmp_path: Path) -> None:
    for index, (level, kind, size) in enumerate(
        [(1, "Data", "48K"), (1, "Instruction", "32K"), (2, "Unified", "2048K"), (3, "Unified", "105M")]
    ):
        folder = tmp_path / f"index{index}"
        folder.mkdir()
        for name, text in (("level", str(level)), ("type", kind), ("size", size)):
            (folder / name).write_text(text + "\n")
    assert read_caches(tmp_path) == {1: 48 << 10, 2: 2 << 20, 3: 105 << 20}
    assert read_caches(tmp_path / "absent") == {}
    device = describe(cpuinfo("AuthenticAMD", 25, 1, core_classes()["znver3"].features), {2: 1 << 20}, 0, 1)
    sources = {figure.name: figure.source for figure in device.figures}
    assert (device.cpu.l2_bytes, sources["l2_bytes"]) == (1 << 20, "/sys/devices/system/cpu")
    assert (device.cpu.l1_bytes, sources["l1_bytes"]) == (32 << 10, "class znver3 in classes.toml")


@pytest.mark.skipif(platform.machine() != "x86_64", reason="an x86 machine's own description")
def test_this_machine_is_described_and_can_run_its_own_code() -> None:
    cpu = host()
    assert cpu.name == "host" and cpu.mcpu in core_classes() and cpu.mcpu != "native"
    assert cpu.cores >= 1 and 0.5 < cpu.clock_ghz < 8 and 8 <= cpu.flops_per_cycle <= 128
    assert 8 << 10 <= cpu.l1_bytes <= cpu.l2_bytes <= 64 << 20
    assert why_not_here(cpu.arch, cpu.features) == ""


def test_what_this_machine_lacks_is_named() -> None:
    assert why_not_here("riscv64", ()) == f"it is for riscv64 and this machine is {platform.machine()}"
    reason = why_not_here(platform.machine(), ("a_future_vector_unit", "pni"))
    assert "lacks a_future_vector_unit" in reason


def test_another_architecture_cannot_be_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "s390x")
    x86_host.host_device.cache_clear()
    try:
        with pytest.raises(UnavailableError, match="expected Linux on x86_64"):
            host_module.host()
    finally:
        x86_host.host_device.cache_clear()


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no affinity on this system")
def test_a_pinned_thread_does_not_make_the_machine_smaller() -> None:
    cores, before = host_module.host().cores, os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    x86_host.host_device.cache_clear()
    try:
        assert host_module.host().cores == cores
    finally:
        os.sched_setaffinity(0, before)
        x86_host.host_device.cache_clear()
