"""Products of u8 activations with s8 weights, summed in i32: the forms that the x86 levels have.

A step multiplies 32 bits of a token (4 columns as u8, or 2 as u16) with 32 bits of weights (4 times s8, or 2
times s16) in each i32 lane:

    vnni   vpdpbusd: 4 products and the sum in one instruction
    chain  vpmaddubsw, whose sums of 2 products in s16 are added up over `chain` steps before vpmaddwd widens
           them. Nothing saturates: activations have 7 bits, and int8_pack.py keeps the weights small enough
    pairs  vpmaddwd of u16 with s16: 2 products, exact for every u8 and every weight of 9 bits

All three give exact sums.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from espalier.targets.cpu import Cpu

Form = Literal["vnni", "chain", "pairs"]

SUM_BITS = 15
"""A sum in s16 holds less than 2^15."""


@dataclass(frozen=True)
class Dot:
    """form: see above. columns: of x in a step. levels: the largest activation. chain: steps that are added
    up in s16, 1 for the other forms. largest: the largest weight."""

    form: Form
    columns: int
    levels: int
    chain: int
    largest: int

    def holds(self, entries: int) -> bool:
        """Whether no sum of so many products can leave i32."""
        return entries * self.levels * self.largest < 1 << 31

    @property
    def weight_type(self) -> str:
        """Of one weight within a 32-bit word."""
        return "int16" if self.form == "pairs" else "int8"


VNNI = Dot("vnni", 4, 255, 1, 127)
CHAIN = Dot("chain", 4, 127, 4, 127)
PAIRS = Dot("pairs", 2, 255, 1, 255)

_BYTES: Mapping[int, str] = {
    4: "llvm.x86.ssse3.pmadd.ub.sw.128",
    8: "llvm.x86.avx2.pmadd.ub.sw",
    16: "llvm.x86.avx512.pmaddubs.w.512",
}
_SHORTS: Mapping[int, str] = {
    4: "llvm.x86.sse2.pmadd.wd",
    8: "llvm.x86.avx2.pmadd.wd",
    16: "llvm.x86.avx512.pmaddw.d.512",
}
_DOTS: Mapping[int, str] = {8: "llvm.x86.avx512.vpdpbusd.256", 16: "llvm.x86.avx512.vpdpbusd.512"}
"""By lanes of i32."""


def dots(cpu: Cpu, largest: int) -> list[Dot]:
    """The forms that a CPU has. largest: of given weights, with activations of 8 bits; 0: none are given."""
    if largest:
        return [PAIRS, *([VNNI] if cpu.vnni and largest <= VNNI.largest else [])]
    return [VNNI] if cpu.vnni else [CHAIN]


class Multiplier:
    """The instructions of a form on vectors of `lanes` i32."""

    def __init__(self, dot: Dot, lanes: int) -> None:
        from tvm import tirx

        self.dot = dot
        self.lanes: Any = lanes
        self.wide = f"int32x{lanes}"
        self.ones = tirx.Broadcast(tirx.IntImm("int16", 1), 2 * self.lanes)

    def add(self, total: Any, x: Sequence[Any], words: Sequence[Any]) -> Any:
        """`total` and the products of a chain: vectors of x with one word of weights each."""
        from tvm import tirx

        weights = [tirx.Broadcast(word, self.lanes) for word in words]
        if self.dot.form == "vnni":
            for a, b in zip(x, weights, strict=True):
                total = self._call(
                    self.wide, _DOTS, total, self._cast("int8", 4, a), self._cast("int8", 4, b)
                )
            return total
        if self.dot.form == "pairs":
            for a, b in zip(x, weights, strict=True):
                product = self._call(self.wide, _SHORTS, self._cast("int16", 2, a), self._cast("int16", 2, b))
                total = total + product
            return total
        short = None
        for a, b in zip(x, weights, strict=True):
            bytes_ = (self._cast("int8", 4, value) for value in (a, b))
            product = self._call(f"int16x{2 * self.lanes}", _BYTES, *bytes_)
            short = product if short is None else short + product
        return total + self._call(self.wide, _SHORTS, short, self.ones)

    def _call(self, result: str, names: Mapping[int, str], *args: Any) -> Any:
        from tvm import tirx

        return tirx.call_llvm_pure_intrin(result, names[self.lanes], *args)

    def _cast(self, base: str, per_lane: int, value: Any) -> Any:
        from tvm import tirx

        return tirx.reinterpret(f"{base}x{per_lane * self.lanes}", value)
