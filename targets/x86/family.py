"""The x86 family as the registry sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

from espalier.errors import UnavailableError, UsageError, unknown
from espalier.targets.cpu import Cpu, Isa
from espalier.targets.device import Device
from espalier.targets.x86.classes import CoreClass, alias_table, core_classes, level_features, tag_table
from espalier.targets.x86.host import cpu_figures, host_device, missing_features

KIND = "llvm"

LEVELS: Mapping[Isa, tuple[str, ...]] = {
    "avx512": ("x86-64-v3", "x86-64-v2"),
    "avx2": ("x86-64-v3", "x86-64-v2"),
    "sse4": ("x86-64-v2",),
}
"""Levels to which a machine with that vector unit can be held back."""


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"expected a name, got {value!r}")
    return value


def _count(value: Any) -> int:
    if (
        isinstance(value, bool)
        or not str(value).isascii()
        or not str(value).isdigit()
        or not 0 < int(value) <= 1 << 40
    ):
        raise ValueError(f"expected a whole number from 1, got {value!r}")
    return int(value)


def _rate(value: Any) -> float:
    try:
        rate = float(value)
    except (TypeError, ValueError):
        rate = 0.0
    if isinstance(value, bool) or not 0 < rate < 1e6:
        raise ValueError(f"expected a positive number, got {value!r}")
    return rate


OPTIONS: Mapping[str, Callable[[Any], Any]] = {
    "mcpu": _text,
    "mtriple": _text,
    "num-cores": _count,
    "clock_ghz": _rate,
    "l1_bytes": _count,
    "l2_bytes": _count,
    "l3_bytes": _count,
    "memory_gbps": _rate,
}
"""mcpu is LLVM's name of a core, or `native` for this machine's; the figures replace those of its class."""


def tags() -> Mapping[str, Mapping[str, Any]]:
    """Tags of TVM that name an x86 machine, as specifications."""
    return {
        tag: {"kind": KIND, "mcpu": row["mcpu"], "num-cores": row["cores"]}
        for tag, row in tag_table().items()
    }


def devices() -> tuple[Device, ...]:
    """This machine, if it is an x86 one, the same held back to a level, and the classes of x86 cores."""
    try:
        host = host_device()
    except UnavailableError:
        return tuple(_class_device(one) for one in core_classes().values())
    held_back = tuple(_held_back(host, level) for level in LEVELS[host.cpu.isa])
    return (host, *held_back, *(_class_device(one) for one in core_classes().values()))


def resolve(specification: Mapping[str, Any]) -> Cpu | None:
    """The CPU of a checked specification; None where its triple is of another architecture.

    Raises UsageError for an unknown mcpu, UnavailableError where this machine is meant and is no x86-64.
    """
    triple = specification.get("mtriple")
    if triple is not None and triple.split("-")[0] not in ("x86_64", "amd64"):
        return None
    mcpu = str(specification.get("mcpu", "native"))
    mcpu = alias_table().get(mcpu, mcpu)
    if mcpu == "native":
        cpu = host_device().cpu
    elif mcpu in core_classes():
        cpu = core_classes()[mcpu].cpu
    else:
        raise UsageError(
            f"unknown mcpu {mcpu!r}",
            hint=unknown("an mcpu", mcpu, (*core_classes(), *alias_table(), "native")),
        )
    names = {field.name for field in fields(Cpu)}
    figures = {key: value for key, value in specification.items() if key in names and key != "mcpu"}
    return replace(cpu, cores=specification.get("num-cores", cpu.cores), **figures)


def _class_device(one: CoreClass) -> Device:
    source = f"class {one.name} in classes.toml"
    sheet = f"data sheet of {one.chip}" if one.vendor else f"{source} (assumed)"
    sources = {
        "mcpu": "LLVM",
        "isa": source,
        "vnni": source,
        "bf16": source,
        "features": source,
        "cores": sheet,
        "clock_ghz": sheet,
        "flops_per_cycle": "optimisation manual of the vendor" if one.vendor else f"{source} (assumed)",
        "l1_bytes": sheet,
        "l2_bytes": sheet,
        "l3_bytes": sheet,
        "memory_gbps": f"{source} (estimate)",
    }
    present = not missing_features(one.features)
    return Device(one.name, KIND, one.chip, present, one.cpu, cpu_figures(one.cpu, sources))


def _held_back(host: Device, level: str) -> Device:
    """This machine with only the instructions of a level, to compare them."""
    generic = core_classes()[level].cpu
    name = f"host-{generic.isa}"
    cpu = replace(
        host.cpu,
        name=name,
        mcpu=level,
        isa=generic.isa,
        vnni=False,
        bf16=False,
        flops_per_cycle=min(host.cpu.flops_per_cycle, generic.flops_per_cycle),
        features=level_features(level),
    )
    source = f"host, held back to {level}"
    given = {figure.name: figure.source for figure in host.figures}
    changed = dict.fromkeys(("mcpu", "isa", "vnni", "bf16", "features", "flops_per_cycle"), source)
    return Device(
        name, KIND, f"this machine with {level} only", True, cpu, cpu_figures(cpu, {**given, **changed})
    )
