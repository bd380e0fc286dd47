"""The device families. A new one is a folder beside this file and a line in FAMILIES.

A family is a module with
  KIND       the target kind it serves, `llvm`;
  OPTIONS    the options that a target of it may carry, each with the parser of its value;
  tags()     {tag: specification}, a specification being {"kind": .., option: value};
  devices()  the devices known by name, this machine's own first;
  resolve(specification) -> Target | None, None where the specification asks for another family.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from typing import Any, Protocol, cast

from espalier.errors import UnavailableError, UsageError, unknown
from espalier.targets.device import Device
from espalier.targets.target import Target

Specification = Mapping[str, Any]

FAMILIES = ("espalier.targets.x86", "espalier.targets.fpga.family")

PLANNED = {
    "cuda": "NVIDIA GPUs",
}
"""Kinds that are named in the contract and have no family yet."""


class Family(Protocol):
    """What a family's module offers."""

    KIND: str
    OPTIONS: Mapping[str, Callable[[Any], Any]]

    def tags(self) -> Mapping[str, Specification]: ...
    def devices(self) -> tuple[Device, ...]: ...
    def resolve(self, specification: Specification) -> Target | None: ...


@cache
def families() -> tuple[Family, ...]:
    """All families, imported."""
    return tuple(cast(Family, import_module(name)) for name in FAMILIES)


@cache
def devices() -> dict[str, Device]:
    """Every device by name. Two families that claim one name are a bug."""
    found: dict[str, Device] = {}
    for family in families():
        for device in family.devices():
            if device.name in found:
                raise RuntimeError(
                    f"two families know a device {device.name}: {found[device.name].kind}, {family.KIND}"
                )
            found[device.name] = device
    return found


def kinds() -> tuple[str, ...]:
    """The target kinds that can be compiled for."""
    return tuple(dict.fromkeys(family.KIND for family in families()))


def find_device(name: str) -> Device:
    """The device of that name, or the one whose name alone contains it.

    Raises UsageError where none or several do.
    """
    known = devices()
    if name in known:
        return known[name]
    matching = [known_name for known_name in known if name and name in known_name]
    if len(matching) == 1:
        return known[matching[0]]
    if matching:
        raise UsageError(
            f"device {name!r} is ambiguous: {', '.join(matching)}",
            hint=f"give one of the names in full, {matching[0]}",
        )
    raise UsageError(f"unknown device {name!r}", hint=unknown("a device", name, known))


def check_kind(kind: str) -> None:
    """Raises UnavailableError for a kind that is planned, UsageError for an unknown one."""
    if kind in PLANNED:
        raise UnavailableError(
            f"target kind {kind!r} ({PLANNED[kind]}) has no back end in this version",
            hint=f"compile for {' or '.join(kinds())}; `espalier devices` lists what is known",
        )
    if kind not in kinds():
        raise UsageError(
            f"unknown target kind {kind!r}", hint=unknown("a target kind", kind, (*kinds(), *PLANNED))
        )
