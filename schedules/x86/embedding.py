"""Look up rows of tables, add them up, and store the sums as tiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from espalier.targets.cpu import Cpu

if TYPE_CHECKING:
    from tvm.tirx import PrimFunc


@dataclass(frozen=True)
class Lookup:
    """One table f32 [rows, features] and which of its rows each token takes.

    index: the type of the row numbers that are given for each token, or "place": `first` plus the token's
    place in its sequence. A negative number counts from the end, as in ONNX's Gather; one out of range takes
    the nearest row.
    """

    rows: int
    index: Literal["int64", "int32", "place"] = "int64"
    first: int = 0


@dataclass(frozen=True)
class EmbeddingWork:
    """The sum of lookups for any number of tokens; at least one of them is given row numbers."""

    features: int
    lookups: tuple[Lookup, ...]

    def __post_init__(self) -> None:
        if all(lookup.index == "place" for lookup in self.lookups):
            raise ValueError(f"an embedding needs a lookup by given row numbers, got {self.lookups}")


def embedding(work: EmbeddingWork, cpu: Cpu, name: str) -> PrimFunc:
    """The function.

    Parameters: for each lookup its table [rows, features] and, unless it goes by place, the row numbers [M];
    the int64 sequence if one goes by place; y f32 [ceil(M / 16), features, 16]. Lanes past M repeat the last
    token.
    """
    from espalier.schedules.x86.build import prim_func

    return prim_func(name, lambda: _emit(work, cpu))


def _emit(work: EmbeddingWork, cpu: Cpu) -> None:
    from tvm import tirx
    from tvm.tirx.script.builder import ir as T

    from espalier.schedules.x86 import build
    from espalier.schedules.x86.build import LANES
    from espalier.schedules.x86.square import squares

    tables, pointers = [], []
    for i, lookup in enumerate(work.lookups):
        tables.append(build.parameter(f"Table{i}", (lookup.rows, work.features)))
        pointers.append(None if lookup.index == "place" else build.handle(f"index{i}"))
    sequence: Any = build.number("sequence") if None in pointers else None
    y = build.handle("y")
    m: Any = tirx.Var("m", "int64")
    given = [
        None if pointer is None else build.matched(f"Index{i}", pointer, (m,), lookup.index)
        for i, (lookup, pointer) in enumerate(zip(work.lookups, pointers, strict=True))
    ]
    y = build.matched("Y", y, ((m + (LANES - 1)) // LANES, work.features, LANES))

    def row(lookup: Lookup, numbers: Any, token: Any) -> Any:
        if numbers is None:
            number = lookup.first + token % sequence
        else:
            number = tirx.Cast("int64", numbers[token]) if lookup.index == "int32" else numbers[token]
            number = tirx.Select(number < 0, number + lookup.rows, number)
        return tirx.max(tirx.min(number, T.int64(lookup.rows - 1)), T.int64(0))

    with build.parallel("tile", (m + (LANES - 1)) // LANES) as tile, build.opaque("tokens"):
        rows = [build.scratch(f"rows{i}", LANES, "int64") for i in range(len(work.lookups))]
        with build.loop("i", LANES) as i:
            token = tirx.min(tile * LANES + i, m - 1)
            for numbers, lookup, place in zip(given, work.lookups, rows, strict=True):
                build.store(place, [i], row(lookup, numbers, token))
        with squares(work.features, cpu, tile) as square:

            def total(i: int) -> Any:
                first, *others = (
                    table[place[square.token + i], square.features()]
                    for table, place in zip(tables, rows, strict=True)
                )
                for other in others:
                    first = first + other
                return first

            square.transpose(
                total, lambda i, value: build.store(y, [tile, square.feature + i, square.tokens()], value)
            )
