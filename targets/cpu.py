"""A CPU as the compiler sees it: its vector unit, its caches, and the figures that predictions rest on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Isa = Literal["sse4", "avx2", "avx512"]


@dataclass(frozen=True)
class Cpu:
    """One CPU. Rates are for one core."""

    name: str
    mcpu: str
    """LLVM's name of the core; decides the instructions that kernels may use."""
    isa: Isa
    vnni: bool
    """Has the int8 dot product (AVX512-VNNI or AVX-VNNI)."""
    bf16: bool
    """Has the bfloat16 dot product (AVX512-BF16)."""
    cores: int
    clock_ghz: float
    flops_per_cycle: int
    """f32 operations a cycle and core: an FMA counts two."""
    l1_bytes: int
    l2_bytes: int
    l3_bytes: int
    """Shared by all cores."""
    memory_gbps: float
    arch: str = "x86_64"
    """As `uname -m` names it."""
    features: tuple[str, ...] = ()
    """Instructions that code for `mcpu` may use, as /proc/cpuinfo names them."""

    @property
    def kind(self) -> str:
        """As `Target`."""
        return "llvm"

    @property
    def host(self) -> Cpu:
        """As `Target`."""
        return self

    @property
    def peak(self) -> str:
        """As `Target`."""
        return f"{self.peak_gflops:.4g} GFLOP/s f32 a core"

    @property
    def peak_gflops(self) -> float:
        """f32 GFLOP/s of one core."""
        return self.clock_ghz * self.flops_per_cycle

    @property
    def lanes(self) -> int:
        """f32 values in one vector register."""
        return {"sse4": 4, "avx2": 8, "avx512": 16}[self.isa]

    @property
    def registers(self) -> int:
        """Vector registers."""
        return 32 if self.isa == "avx512" else 16
