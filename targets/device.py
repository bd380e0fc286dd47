"""A device as `espalier devices` shows it: a target with the source of every figure."""

from __future__ import annotations

from dataclasses import dataclass

from espalier.targets.cpu import Cpu
from espalier.targets.target import Target


@dataclass(frozen=True)
class Figure:
    """One fact about a device and where it comes from."""

    name: str
    value: str | int | float | bool
    unit: str
    source: str

    def to_dict(self) -> dict[str, object]:
        return {"name": self.name, "value": self.value, "unit": self.unit, "source": self.source}


@dataclass(frozen=True)
class Device:
    """A device known by name. `present` says whether this machine can run its packages."""

    name: str
    kind: str
    summary: str
    present: bool
    target: Target
    figures: tuple[Figure, ...]

    @property
    def cpu(self) -> Cpu:
        """The target of a device that is a CPU."""
        assert isinstance(self.target, Cpu), self.name
        return self.target

    def to_dict(self) -> dict[str, object]:
        """The object that `devices NAME --json` prints."""
        return {
            "name": self.name,
            "kind": self.kind,
            "summary": self.summary,
            "present": self.present,
            "figures": [figure.to_dict() for figure in self.figures],
        }
