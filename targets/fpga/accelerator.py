"""What a package says of the parts that an accelerator runs: plain data, checked where it is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from espalier.targets.fpga.geometry import Geometry
from espalier.targets.fpga.simulator import Timing


def symbol(part: str) -> str:
    """The name under which the host's code calls a part."""
    return f"espalier.{part}"


@dataclass(frozen=True)
class Span:
    """Bytes of a member of the package."""

    start: int
    size: int


@dataclass(frozen=True)
class Tensor:
    """int8 `[tokens, features]`: a feature's integer times its scale is the float."""

    scales: tuple[float, ...]


@dataclass(frozen=True)
class Keys:
    """The parameters of an attention's keys, which the host makes of a mask."""

    mask: int
    """Index among the masks handed over; -1 where only the length counts."""
    unit: float
    """Of the float scores, an accumulator's 1."""
    mul: int
    shift: int


@dataclass(frozen=True)
class Operation:
    """An operation of a program, with what the latency model says of it."""

    name: str
    layer: str
    """The weight of a linear layer, as the package lists it; else empty."""
    kind: str
    cycles: float
    bytes: int
    """Moved between external memory and the chip."""
    macs: int
    """Multiply-adds that count: kept weights times tokens."""


@dataclass(frozen=True)
class Program:
    """A part for sequences of one length."""

    tokens: int
    stream: Span
    """In program.bin."""
    input_bytes: int
    """Of region 1: the inputs, masks over queries and keys, the parameters of attentions' keys."""
    output_bytes: int
    """Of region 2: the outputs, then what is stored for a while."""
    operations: tuple[Operation, ...]
    cycles: float
    """Of the whole, as the latency model says."""


@dataclass(frozen=True)
class Part:
    """A piece of the model. Inputs and masks come in this order, then the outputs."""

    name: str
    inputs: tuple[Tensor, ...]
    masks: int
    squares: tuple[int, ...]
    """Masks over queries and keys, which become tensors; the others are over keys."""
    keys: tuple[Keys, ...]
    outputs: tuple[Tensor, ...]
    params: Span
    """In params.bin: region 0 of every program."""
    programs: tuple[Program, ...]
    """Shortest first."""


@dataclass(frozen=True)
class Accelerator:
    """An accelerator and its parts of the model."""

    kind: Literal["fpga"]
    geometry: Geometry
    mhz: int
    """Assumed."""
    timing: Timing
    """Of external memory, assumed."""
    parts: tuple[Part, ...]

    def summary(self) -> str:
        """One line for people: how long each part takes."""
        times = [
            f"{part.name} {program.cycles / (self.mhz * 1e3):.4g} ms for {program.tokens} tokens"
            for part in self.parts
            for program in part.programs
        ]
        return f"{self.geometry.label} at {self.mhz} MHz, predicted: {', '.join(times)}"
