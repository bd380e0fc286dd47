"""Small help to write TVMScript as text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tvm.tirx import PrimFunc


def indent(lines: Iterable[str], levels: int = 1) -> list[str]:
    """The lines, `levels` blocks deeper."""
    return ["    " * levels + line for line in lines]


def block(head: str, lines: Iterable[str]) -> list[str]:
    """`head:` with the lines as its body."""
    return [f"{head}:", *indent(lines)]


def lanes(start: str | int = 0) -> str:
    """16 lanes from `start` on."""
    return f"T.Ramp({start}, 1, 16)"


def prim_func(
    name: str, parameters: Iterable[str], body: Iterable[str], names: Mapping[str, Any]
) -> PrimFunc:
    """Parse a scheduled, alias-free function. `names` are those that the text uses beside T."""
    from tvm.script import from_source
    from tvm.script import tirx as T

    attributes = 'T.func_attr({"tirx.noalias": True, "op_pattern": 8, "tirx.is_scheduled": True})'
    head = ["@T.prim_func(s_tir=True)", f"def {name}({', '.join(parameters)}):"]
    return from_source("\n".join([*head, *indent([attributes, *body])]), extra_vars={"T": T, **names})
