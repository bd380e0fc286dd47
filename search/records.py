"""Records: measured times of kernels, kept by what was computed and not by model."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from functools import cached_property
from typing import Any

from espalier.schedules import Epilogue, LinearKernel, LinearWork
from espalier.sparsity import BP, BPPP, HP, NM, PP, Block, Dense, Structure, Unstructured, Zero

STRUCTURES: Mapping[str, type[Structure]] = {
    one.__name__: one for one in (BP, BPPP, HP, NM, PP, Block, Dense, Unstructured, Zero)
}


@dataclass(frozen=True)
class Place:
    """What measured: core is LLVM's name of it, ghz the clock that its predictions assumed."""

    core: str
    ghz: float
    threads: int


@dataclass(frozen=True)
class Record:
    """One measured time: `kernel` (its name, knobs and all) for `tokens` tokens of `work`."""

    place: Place
    work: LinearWork
    tokens: int
    kernel: str
    version: int
    milliseconds: float

    @cached_property
    def key(self) -> tuple[object, ...]:
        """What two records of the same thing have in common."""
        return record_key(
            self.place.core, self.place.threads, self.work, self.tokens, self.kernel, self.version
        )

    def line(self) -> str:
        """The record as it is stored."""
        work = self.work
        extra = {name: getattr(work, name) for name in EXTRAS if getattr(work, name) != EXTRAS[name]}
        values = {
            "core": self.place.core,
            "ghz": self.place.ghz,
            "threads": self.place.threads,
            "n": work.n,
            "k": work.k,
            "structure": structure_text(work.structure),
            "epilogue": epilogue_text(work.epilogue),
            **extra,
            "tokens": self.tokens,
            "kernel": self.kernel,
            "version": self.version,
            "ms": float(f"{self.milliseconds:.4g}"),
        }
        return json.dumps(values, separators=(",", ":"))


EXTRAS = {
    field.name: field.default
    for field in fields(LinearWork)
    if field.default is not MISSING and field.name not in ("epilogue",)
}
"""Fields of LinearWork that a line names only where they are not these."""


def record_key(
    core: str, threads: int, work: LinearWork, tokens: int, kernel: str, version: int
) -> tuple[object, ...]:
    """What is the same for all models: a ragged matrix counts by its density, to a percent."""
    structure = work.structure
    if isinstance(structure, Unstructured | Block):
        density = 1 - structure.sparsity((work.n, work.k))
        shape = (structure.bh, structure.bw) if isinstance(structure, Block) else ()
        kind: object = (type(structure).__name__, *shape, round(density, 2))
    else:
        kind = structure
    return (core, threads, replace(work, structure=Dense()), kind, tokens, kernel, version)


def kernel_key(kernel: LinearKernel, core: str, tokens: int, threads: int) -> tuple[object, ...]:
    """The key of the records of a kernel."""
    return record_key(core, threads, kernel.work, tokens, kernel.name, kernel.version)


def structure_text(structure: Structure) -> str:
    """Class and fields of a structure, the usual ones left out: `HP(B=32,kc=76,v=4,n=2,g=4)`."""
    given = [
        f"{field.name}={getattr(structure, field.name)}"
        for field in fields(structure)
        if getattr(structure, field.name) != field.default
    ]
    return f"{type(structure).__name__}({','.join(given)})"


def parse_structure(text: str) -> Structure:
    """The structure of a `structure_text`; ValueError where it is none."""
    found = re.fullmatch(r"([A-Za-z]{1,16})\(((?:[A-Za-z]{1,8}=[A-Za-z0-9]{1,10}(?:,|(?=\))))*)\)", text)
    if found is None or found[1] not in STRUCTURES:
        raise ValueError(f"unknown structure {text[:60]!r}")
    given = dict(pair.split("=") for pair in found[2].split(",") if pair)
    try:
        return STRUCTURES[found[1]](**{name: _value(value) for name, value in given.items()})
    except TypeError as error:
        raise ValueError(f"structure {text[:60]!r}: {error}") from None


def _value(text: str) -> Any:
    named = {"True": True, "False": False, "columns": "columns", "rows": "rows"}
    return named[text] if text in named else int(text)


def epilogue_text(epilogue: Epilogue) -> str:
    """`bias+gelu+residual`, empty where nothing is done."""
    activation = [] if epilogue.activation == "none" else [epilogue.activation]
    return "+".join([*["bias"] * epilogue.bias, *activation, *["residual"] * epilogue.residual])


def parse_epilogue(text: str) -> Epilogue:
    """The epilogue of an `epilogue_text`; ValueError where it is none."""
    words = text.split("+") if text else []
    rest = [word for word in words if word not in ("bias", "residual")]
    epilogue = Epilogue("bias" in words, rest[0] if rest else "none", "residual" in words)  # type: ignore[arg-type]
    if epilogue_text(epilogue) != text or epilogue.activation not in ACTIVATIONS:
        raise ValueError(f"unknown epilogue {text[:60]!r}")
    return epilogue


ACTIVATIONS = ("none", "relu", "gelu", "gelu_tanh", "tanh", "sigmoid", "silu")
