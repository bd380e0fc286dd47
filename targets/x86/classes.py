"""The table of x86 cores (classes.toml) as values."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from espalier.targets.cpu import Cpu, Isa

ISA_OF_LEVEL: dict[str, Isa] = {"x86-64-v2": "sse4", "x86-64-v3": "avx2", "x86-64-v4": "avx512"}


@dataclass(frozen=True)
class CoreClass:
    """One microarchitecture, with the figures of the chip that stands for it."""

    name: str
    vendor: str
    family: int
    models: tuple[int, ...]
    """Empty: every model of the family that no other class names."""
    level: str
    features: tuple[str, ...]
    chip: str
    cpu: Cpu

    def is_model(self, vendor: str, family: int, model: int) -> bool:
        """Whether a CPU that identifies itself so is of this class."""
        return (vendor, family) == (self.vendor, self.family) and (not self.models or model in self.models)


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads(
        resources.files("espalier.targets.x86").joinpath("classes.toml").read_text(encoding="utf-8")
    )


@cache
def level_features(level: str) -> tuple[str, ...]:
    """Instructions of a level of the x86-64 ABI, lower levels included."""
    levels = list(_table()["levels"])
    wanted = levels[: levels.index(level) + 1]
    return tuple(sorted(feature for name in wanted for feature in _table()["levels"][name]))


@cache
def core_classes() -> dict[str, CoreClass]:
    """Every class by LLVM's name, in the order in which a CPU is matched against them."""
    return {name: _core_class(name, row) for name, row in _table()["classes"].items()}


def _core_class(name: str, row: dict[str, Any]) -> CoreClass:
    features = tuple(sorted({*level_features(row["level"]), *row["extra"]}))
    cpu = Cpu(
        name=name,
        mcpu=name,
        isa=ISA_OF_LEVEL[row["level"]],
        vnni="avx512_vnni" in features or "avx_vnni" in features,
        bf16="avx512_bf16" in features,
        cores=row["cores"],
        clock_ghz=row["clock_ghz"],
        flops_per_cycle=row["flops_per_cycle"],
        l1_bytes=row["l1_kib"] * 1024,
        l2_bytes=row["l2_kib"] * 1024,
        l3_bytes=row["l3_kib"] * 1024,
        memory_gbps=row["memory_gbps"],
        features=features,
    )
    return CoreClass(
        name=name,
        vendor=row.get("vendor", ""),
        family=row.get("family", 0),
        models=tuple(row.get("models", ())),
        level=row["level"],
        features=features,
        chip=row["chip"],
        cpu=cpu,
    )


def tag_table() -> dict[str, dict[str, Any]]:
    """Tags of TVM that name an x86 machine: {tag: {"mcpu": .., "cores": ..}}."""
    return dict(_table()["tags"])


def alias_table() -> dict[str, str]:
    """Other names of a class: {alias: class}."""
    return dict(_table()["aliases"])
