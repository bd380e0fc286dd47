"""The most arithmetic this machine can do, to judge kernels by."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from espalier.runtime.clock import measured_ghz
from espalier.targets.host import host

OPERATIONS = 4
"""Of an int8 dot product (VNNI), for each of an f32 multiply-add."""


@dataclass(frozen=True)
class Peak:
    """Of some threads, a core each."""

    threads: int
    clock_ghz: float
    clock: str
    """How the clock is known."""
    flops_per_cycle: int
    """f32 operations a cycle and core; a multiply-add counts two."""
    vnni: bool

    def gflops(self, *, integers: bool) -> float:
        """Of multiply-adds in f32, or where the CPU has it of the int8 dot product."""
        f32 = self.threads * self.clock_ghz * self.flops_per_cycle
        return f32 * OPERATIONS if integers and self.vnni else f32

    def text(self) -> str:
        """One line for people."""
        integers = f", {self.gflops(integers=True):.4g} int8 by VNNI" if self.vnni else ""
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return (
            f"{self.gflops(integers=False):.4g} GFLOP/s f32{integers}: {threads} x {self.clock_ghz:.4g} GHz "
            f"({self.clock}) x {self.flops_per_cycle} a cycle"
        )

    def to_dict(self) -> dict[str, float | int | str | bool]:
        """The fields and the rate in f32."""
        return {"gflops": self.gflops(integers=False), **asdict(self)}


def peak(threads: int | None) -> Peak:
    """Of so many threads of this machine; None is one for every core.

    The clock is measured, and the base clock where that cannot be. Instructions a cycle are the class of
    core's, as `espalier devices host` shows it.
    """
    cpu, ghz = host(), measured_ghz()
    return Peak(
        threads=threads or cpu.cores,
        clock_ghz=ghz or cpu.clock_ghz,
        clock="measured by a chain of additions" if ghz else "the base clock; it may run faster",
        flops_per_cycle=cpu.flops_per_cycle,
        vnni=cpu.vnni,
    )
