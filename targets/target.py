"""What a package can be compiled for, as the verbs see it: the same for every family of devices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from espalier.targets.cpu import Cpu


class Target(Protocol):
    """One target. Its family knows the rest; `kind` finds the code generator and the runtime."""

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> str:
        """The kind of its family, `llvm` or `fpga`."""
        ...

    @property
    def host(self) -> Cpu:
        """The CPU that runs what the target itself does not: for a CPU, itself."""
        ...

    @property
    def clock_ghz(self) -> float: ...

    @property
    def peak(self) -> str:
        """The most arithmetic it does, with its unit, for people."""
        ...
