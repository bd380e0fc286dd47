"""What this machine's CPU is, from /proc/cpuinfo and /sys."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

from espalier.errors import UnavailableError
from espalier.targets.cpu import Cpu
from espalier.targets.device import Device, Figure
from espalier.targets.x86.classes import CoreClass, core_classes

CPUINFO = Path("/proc/cpuinfo")
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
MOST_MHZ = Path("/sys/devices/system/cpu/cpu0/cpufreq/base_frequency")
ALLOWED = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
"""CPUs open to this process, read at import: pinning a thread later does not make the machine smaller."""
GENERIC = ("x86-64-v4", "x86-64-v3", "x86-64-v2")


@cache
def host_device() -> Device:
    """This machine, described once a process.

    Raises UnavailableError where it is no x86-64 with SSE4.2.
    """
    if platform.machine() != "x86_64" or not CPUINFO.is_file():
        raise UnavailableError(
            f"this machine is {platform.system()} on {platform.machine()}, expected Linux on x86_64",
            hint="name a target, such as --target x86-64-v3",
        )
    caches = read_caches(CACHES)
    base_khz = int(MOST_MHZ.read_text()) if MOST_MHZ.is_file() else 0
    return describe(parse_cpuinfo(CPUINFO.read_text()), caches, base_khz, ALLOWED)


@cache
def _host_flags() -> frozenset[str]:
    cpus = parse_cpuinfo(CPUINFO.read_text()) if platform.machine() == "x86_64" and CPUINFO.is_file() else []
    return frozenset(cpus[0].get("flags", "").split()) if cpus else frozenset()


def missing_features(features: Iterable[str]) -> list[str]:
    """Those of `features` that this machine's CPU has not."""
    return sorted(set(features) - _host_flags())


def parse_cpuinfo(text: str) -> list[dict[str, str]]:
    """One mapping a logical CPU."""
    blocks = [block for block in text.split("\n\n") if block.strip()]
    pairs = [[line.partition(":") for line in block.splitlines() if ":" in line] for block in blocks]
    return [{key.strip(): value.strip() for key, _, value in block} for block in pairs]


def read_caches(folder: Path) -> dict[int, int]:
    """Bytes of the data cache of each level; empty where the kernel does not say."""
    found: dict[int, int] = {}
    for index in sorted(folder.glob("index*")):
        try:
            kind = (index / "type").read_text().strip()
            level = int((index / "level").read_text())
            size = re.fullmatch(r"(\d+)([KM])", (index / "size").read_text().strip())
        except (OSError, ValueError):
            continue
        if kind != "Instruction" and size is not None:
            found[level] = int(size[1]) * {"K": 1 << 10, "M": 1 << 20}[size[2]]
    return found


def match_class(cpu: Mapping[str, str]) -> CoreClass:
    """The class of a CPU: its own where the machine has all instructions of it, else a generic one."""
    flags = set(cpu["flags"].split())
    identity = (cpu["vendor_id"], int(cpu["cpu family"]), int(cpu["model"]))
    classes = core_classes()
    own = [one for one in classes.values() if one.is_model(*identity)]
    for candidate in (*own, *(classes[name] for name in GENERIC)):
        if flags.issuperset(candidate.features):
            return candidate
    lacking = sorted(set(classes[GENERIC[-1]].features) - flags)
    raise UnavailableError(
        f"this machine's CPU ({cpu.get('model name', 'unnamed')}) lacks {', '.join(lacking)}",
        hint="Espalier needs an x86-64 CPU with SSE4.2; name another --target to compile for one",
    )


def describe(cpus: list[dict[str, str]], caches: Mapping[int, int], base_khz: int, allowed: int) -> Device:
    """The host out of what the kernel says.

    `base_khz` is 0 where it does not tell the base clock; `allowed` counts the CPUs open to this process.
    """
    first = cpus[0]
    core = match_class(first)
    table = f"class {core.name} in classes.toml"
    clock, clock_source = _clock_ghz(first, base_khz, core)
    threads_a_core = max(1, int(first.get("siblings", 1)) // max(1, int(first.get("cpu cores", 1))))
    sizes = {1: core.cpu.l1_bytes, 2: core.cpu.l2_bytes, 3: core.cpu.l3_bytes, **caches}
    cpu = replace(
        core.cpu,
        name="host",
        cores=max(1, allowed // threads_a_core),
        clock_ghz=clock,
        l1_bytes=sizes[1],
        l2_bytes=sizes[2],
        l3_bytes=sizes[3],
    )
    identity = f"/proc/cpuinfo: {first['vendor_id']} family {first['cpu family']} model {first['model']}"

    def cache_source(level: int) -> str:
        return "/sys/devices/system/cpu" if level in caches else table

    return Device(
        name="host",
        kind="llvm",
        summary=f"this machine: {first.get('model name', core.chip)}",
        present=True,
        target=cpu,
        figures=cpu_figures(
            cpu,
            {
                "mcpu": identity,
                "isa": "/proc/cpuinfo: flags",
                "vnni": "/proc/cpuinfo: flags",
                "bf16": "/proc/cpuinfo: flags",
                "features": table,
                "cores": "CPUs this process may use, /proc/cpuinfo: siblings, cpu cores",
                "clock_ghz": clock_source,
                "flops_per_cycle": table,
                "l1_bytes": cache_source(1),
                "l2_bytes": cache_source(2),
                "l3_bytes": cache_source(3),
                "memory_gbps": f"{table} (estimate)",
            },
        ),
    )


def _clock_ghz(cpu: Mapping[str, str], base_khz: int, core: CoreClass) -> tuple[float, str]:
    """The base clock to 0.1 GHz: the momentary one would make the same compilation differ from run to run."""
    if base_khz:
        return round(base_khz / 1e6, 1), "/sys/devices/system/cpu: base_frequency"
    named = re.search(r"@ ([\d.]+)GHz", cpu.get("model name", ""))
    if named:
        return round(float(named[1]), 1), "/proc/cpuinfo: model name"
    if float(cpu.get("bogomips", 0)) > 0:
        return round(
            float(cpu["bogomips"]) / 2000, 1
        ), "/proc/cpuinfo: bogomips (two a cycle of the base clock)"
    return core.cpu.clock_ghz, f"class {core.name} in classes.toml"


UNITS = {
    "cores": "",
    "clock_ghz": "GHz",
    "flops_per_cycle": "f32 flop/cycle/core",
    "l1_bytes": "bytes/core",
    "l2_bytes": "bytes/core",
    "l3_bytes": "bytes",
    "memory_gbps": "GB/s/core",
}


def cpu_figures(cpu: Cpu, sources: Mapping[str, str]) -> tuple[Figure, ...]:
    """Every field of a CPU with its source."""

    def value(name: str) -> str | int | float | bool:
        field = getattr(cpu, name)
        return " ".join(field) if isinstance(field, tuple) else field

    return tuple(Figure(name, value(name), UNITS.get(name, ""), source) for name, source in sources.items())
