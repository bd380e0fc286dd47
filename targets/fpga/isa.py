"""Assembler and disassembler of the accelerator's instructions, straight from isa.toml."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

WORD_BYTES = 16


@dataclass(frozen=True)
class Field:
    """Bits `[low, low + bits)` of a word."""

    name: str
    bits: int
    low: int
    doc: str
    signed: bool = False
    most: int | None = None
    """The largest value allowed, where that is less than the bits hold."""


@dataclass(frozen=True)
class Format:
    """An instruction: its operation code, its queue and all its fields, header first."""

    name: str
    op: int
    queue: str
    doc: str
    fields: tuple[Field, ...]


def _fields(items: list[dict[str, Any]], low: int = 0) -> tuple[Field, ...]:
    out = []
    for item in items:
        out.append(
            Field(item["name"], item["bits"], low, item["doc"], item.get("signed", False), item.get("max"))
        )
        low += item["bits"]
    return tuple(out)


@cache
def spec() -> dict[str, Any]:
    """isa.toml as it stands."""
    return tomllib.loads(resources.files("espalier.targets.fpga").joinpath("isa.toml").read_text())


@cache
def formats() -> dict[str, Format]:
    """Every instruction by name."""
    out = {}
    for item in spec()["instruction"]:
        fields = _fields(spec()["header"] + item["fields"])
        assert fields[-1].low + fields[-1].bits <= spec()["word_bits"], item["name"]
        out[item["name"]] = Format(item["name"], item["op"], item["queue"], item["doc"], fields)
    return out


@cache
def names(kind: str) -> dict[str, int]:
    """The values of an enumeration of isa.toml ("memory", "activation", "fault") by name."""
    return {item["name"]: item["value"] for item in spec()[kind]}


@cache
def param_fields(kind: str) -> tuple[Field, ...]:
    """The fields of a 64-bit parameter entry: "linear" or "norm"."""
    return _fields(next(item["fields"] for item in spec()["params"] if item["name"] == kind))


@dataclass(frozen=True)
class Instruction:
    """One instruction: a name and the values of its fields; fields not given are 0."""

    name: str
    values: dict[str, int] = field(default_factory=dict)

    def __getitem__(self, name: str) -> int:
        return self.values.get(name, 0)

    @property
    def queue(self) -> str:
        """load, compute, store; none for START."""
        return formats()[self.name].queue

    def encode(self) -> bytes:
        """The 16 bytes of the word.

        Raises ValueError for an unknown field or a value that its bits cannot hold.
        """
        form = formats()[self.name]
        known = {item.name for item in form.fields}
        if extra := set(self.values) - known:
            raise ValueError(
                f"{self.name} has no field {sorted(extra)[0]!r}; it has {', '.join(sorted(known))}"
            )
        word = 0
        for item in form.fields:
            value = form.op if item.name == "op" else self[item.name]
            if not 0 <= value < 1 << item.bits:
                raise ValueError(
                    f"{self.name}.{item.name} is {value}; {item.bits} bits hold 0..{(1 << item.bits) - 1}"
                )
            word |= value << item.low
        return word.to_bytes(WORD_BYTES, "little")

    def text(self) -> str:
        """One line of assembly: `LINEAR windows=3 tiles=2 pop_prev=1`."""
        return " ".join([self.name, *(f"{name}={value}" for name, value in self.values.items() if value)])


def decode(word: bytes) -> Instruction:
    """The instruction of 16 bytes. Fields that are 0 are left out."""
    bits = int.from_bytes(word, "little")
    form = next(item for item in formats().values() if item.op == bits & 7)
    values = {f.name: (bits >> f.low) & ((1 << f.bits) - 1) for f in form.fields if f.name != "op"}
    return Instruction(form.name, {name: value for name, value in values.items() if value})


def assemble(program: list[Instruction]) -> bytes:
    """The bytes of a program."""
    return b"".join(item.encode() for item in program)


def disassemble(stream: bytes) -> list[Instruction]:
    """The program of a stream whose length is a multiple of 16."""
    if len(stream) % WORD_BYTES:
        raise ValueError(f"an instruction stream of {len(stream)} bytes; expected a multiple of {WORD_BYTES}")
    return [decode(stream[i : i + WORD_BYTES]) for i in range(0, len(stream), WORD_BYTES)]


def parse(line: str) -> Instruction:
    """The instruction of a line that `Instruction.text` wrote."""
    name, *pairs = line.split()
    if name not in formats():
        raise ValueError(f"unknown instruction {name!r}; there are {', '.join(formats())}")
    return Instruction(name, {key: int(value) for key, _, value in (pair.partition("=") for pair in pairs)})


def pack_params(kind: str, **columns: np.ndarray) -> np.ndarray:
    """64-bit parameter entries, uint64 `[n]`, from one array of n integers a field of `kind`.

    Raises ValueError for a value that its field cannot hold.
    """
    out: np.ndarray | None = None
    for item in param_fields(kind):
        values = np.asarray(columns[item.name], np.int64)
        low, high = (
            (-(1 << item.bits - 1), (1 << item.bits - 1) - 1) if item.signed else (0, (1 << item.bits) - 1)
        )
        high = high if item.most is None else item.most
        if values.size and not (low <= values.min() and values.max() <= high):
            raise ValueError(
                f"parameter {item.name} of {kind}: {values.min()}..{values.max()} is outside {low}..{high}"
            )
        entry = (values & ((1 << item.bits) - 1)).astype(np.uint64) << np.uint64(item.low)
        out = entry if out is None else out | entry
    assert out is not None
    return out
