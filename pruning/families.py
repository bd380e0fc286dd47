"""Families of structures: from a wanted sparsity and the shape of a weight to a structure.

A family is the part of a structure that the user chooses ("HP with blocks of 32 rows, 2 of 4"); how many
columns, blocks or weights are kept follows from the sparsity. Written as `inspect` writes structures, by name
and parameters: `hp(B=32,v=4,n=2,g=4)`, `bp(axis=rows)`, `bp+pp(p=100,m=4)`, `nm(v=4)`, `block(bh=16,bw=1)`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields
from typing import Literal, Protocol

from espalier.errors import UsageError, unknown
from espalier.sparsity import BP, BPPP, HP, NM, PP, Block, Dense, Structure, Unstructured


class Family(Protocol):
    """What can be cut to any sparsity."""

    def at(self, shape: tuple[int, int], sparsity: float) -> Structure:
        """The structure of this family nearest to `sparsity` (0 <= sparsity < 1) for a weight `[N, K]`."""
        ...


@dataclass(frozen=True)
class HPFamily:
    """HP. Below the sparsity of level 2 alone more than n of each v are kept: every sparsity can be had.

    The groups of a block must be able to use every column it keeps: B / g · n >= v.
    """

    B: int = 32
    v: int = 4
    n: int = 2
    g: int = 1
    banked: bool = False

    def __post_init__(self) -> None:
        if self.B % self.g:
            raise UsageError(
                f"structure hp: B is {self.B}, expected a multiple of g={self.g}",
                hint=f"give B={-(-self.B // self.g) * self.g}, or another g",
            )
        if self.n > self.v:
            raise UsageError(
                f"structure hp: n is {self.n}, expected at most v={self.v}",
                hint=f"give an n from 1 to {self.v}",
            )
        if self.B // self.g * self.n < self.v:
            raise UsageError(
                f"structure hp: the {self.B // self.g} groups of {self.g} rows in a block of {self.B} "
                f"use at most {self.B // self.g * self.n} of the {self.v} columns of a vector",
                hint="give a smaller g or a larger B, or bp for whole columns",
            )

    def at(self, shape: tuple[int, int], sparsity: float) -> Structure:
        n = max(self.n, math.ceil((1.0 - sparsity) * self.v - 1e-9))
        return HP.for_sparsity(shape, sparsity, B=self.B, v=self.v, n=n, g=self.g, banked=self.banked)


@dataclass(frozen=True)
class BPFamily:
    """BP by columns of row blocks or rows of column blocks."""

    B: int = 32
    axis: Literal["columns", "rows"] = "columns"

    def at(self, shape: tuple[int, int], sparsity: float) -> Structure:
        return BP.for_sparsity(shape, sparsity, B=self.B, axis=self.axis)


@dataclass(frozen=True)
class PPFamily:
    """Patterns alone. shared: all layers take their patterns from one set."""

    p: int = 100
    m: int = 4
    shared: bool = True

    def at(self, shape: tuple[int, int], sparsity: float) -> Structure:
        return PP.for_sparsity(shape, sparsity, p=self.p, m=self.m)


@dataclass(frozen=True)
class BPPPFamily:
    """Patterns over a BP backbone; both levels keep the same share.

    shared: all layers take their patterns from one set, as in RT3; the backbone then makes up for rounding.
    """

    B: int = 32
    p: int = 100
    m: int = 4
    axis: Literal["columns", "rows"] = "columns"
    shared: bool = True

    def at(self, shape: tuple[int, int], sparsity: float) -> Structure:
        if not self.shared:
            return BPPP.for_sparsity(shape, sparsity, B=self.B, p=self.p, m=self.m, axis=self.axis)
        kept = max(round((1.0 - sparsity) ** 0.5 * self.p**2), 1)
        share = min((1.0 - sparsity) * self.p**2 / kept, 1.0)
        kc = BP.for_sparsity(shape, 1.0 - share, B=self.B, axis=self.axis).kc
        return BPPP(self.B, kc, self.p, self.m, kept, self.axis)


@dataclass(frozen=True)
class NMFamily:
    """n of each v; only multiples of 1/v can be had."""

    v: int = 4
    g: int = 1

    def at(self, shape: tuple[int, int], sparsity: float) -> Structure:
        return NM.for_sparsity(shape, sparsity, v=self.v, g=self.g)


@dataclass(frozen=True)
class BlockFamily:
    """Whole blocks anywhere."""

    bh: int = 16
    bw: int = 1

    def at(self, shape: tuple[int, int], sparsity: float) -> Structure:
        return Block.for_sparsity(shape, sparsity, bh=self.bh, bw=self.bw)


@dataclass(frozen=True)
class UnstructuredFamily:
    """Weights anywhere."""

    def at(self, shape: tuple[int, int], sparsity: float) -> Structure:
        return Unstructured(max(round((1.0 - sparsity) * shape[0] * shape[1]), 1))


FAMILIES: dict[str, type] = {
    "hp": HPFamily,
    "bp": BPFamily,
    "pp": PPFamily,
    "bp+pp": BPPPFamily,
    "nm": NMFamily,
    "block": BlockFamily,
    "unstructured": UnstructuredFamily,
}


def parse_family(text: str) -> Family:
    """`name` or `name(key=value,...)`; UsageError that names the nearest where one is unknown."""
    match = re.fullmatch(r"\s*([a-z+]+)\s*(?:\((.*)\))?\s*", text.lower().replace("b=", "B="))
    name = match[1] if match else text
    if match is None or name not in FAMILIES:
        raise UsageError(f"structure {text!r} is unknown", hint=unknown("a structure", name, FAMILIES))
    kind = FAMILIES[name]
    defaults = {field.name: field.default for field in fields(kind)}
    values: dict[str, object] = {}
    for part in filter(None, (piece.strip() for piece in (match[2] or "").split(","))):
        key, _, value = (piece.strip() for piece in part.partition("="))
        if key not in defaults:
            raise UsageError(
                f"structure {text!r}: {name} has no parameter {key!r}",
                hint=unknown("a parameter", key, defaults),
            )
        values[key] = _parse_value(text, key, value, defaults[key])
    return kind(**values)


def _parse_value(text: str, key: str, value: str, default: object) -> object:
    if isinstance(default, bool):
        choices: tuple[str, ...] = ("true", "false")
    elif isinstance(default, str):
        choices = ("columns", "rows")
    else:
        if not (value.isascii() and value.isdigit() and 1 <= int(value) <= 1 << 20):
            raise UsageError(
                f"structure {text!r}: {key} is {value!r}, expected a whole number from 1",
                hint=f"write for example {key}={default}",
            )
        return int(value)
    if value not in choices:
        raise UsageError(
            f"structure {text!r}: {key} is {value!r}, expected {' or '.join(choices)}",
            hint=unknown(key, value, choices),
        )
    return value == "true" if isinstance(default, bool) else value


def structure_at(family: Family, shape: tuple[int, int], sparsity: float) -> Structure:
    """`family.at`, and Dense at sparsity 0."""
    return family.at(shape, sparsity) if sparsity > 0.0 else Dense()
