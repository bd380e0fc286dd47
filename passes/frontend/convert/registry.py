"""The ONNX operators that are understood: a converter for each (domain, name), with its opset range.

The registry is also the allow-list: what is not in it is refused before anything is converted.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias, TypeVar

from espalier.passes.frontend.build import Builder
from espalier.passes.frontend.values import Value

MICROSOFT = "com.microsoft"
GROUPS = (
    "activation",
    "attention",
    "contrib",
    "elementwise",
    "linear",
    "move",
    "norm",
    "quantize",
    "reduce",
    "sizes",
)


@dataclass(frozen=True)
class Node:
    """An ONNX node as a converter sees it: its attributes as Python values."""

    op: str
    domain: str
    version: int
    attrs: dict[str, Any]
    outputs: tuple[str, ...]

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute, or the default."""
        return self.attrs.get(name, default)


Convert: TypeAlias = Callable[..., Value | Sequence[Value | None]]
C = TypeVar("C", bound=Convert)


@dataclass(frozen=True)
class Converter:
    """`convert(build, node, *inputs)` gives the node's outputs; absent optional inputs are None."""

    convert: Convert
    since: int
    inputs: tuple[int, int]


_TABLE: dict[tuple[str, str], Converter] = {}


def converts(
    *names: str, domain: str = "", since: int = 1, inputs: tuple[int, int] = (1, 1)
) -> Callable[[C], C]:
    """Registers a converter for operators; `inputs` is the least and the greatest number of inputs."""

    def register(function: C) -> C:
        for name in names:
            key = (domain, name)
            if key in _TABLE:
                raise ValueError(f"{key} is already converted by {_TABLE[key].convert.__name__}")
            _TABLE[key] = Converter(function, since, inputs)
        return function

    return register


@cache
def table() -> dict[tuple[str, str], Converter]:
    """All converters."""
    for group in GROUPS:
        importlib.import_module(f"espalier.passes.frontend.convert.{group}")
    return _TABLE


def call(build: Builder, node: Node, inputs: Sequence[Value | None]) -> list[Value | None]:
    """The outputs of a node."""
    converter = table()[node.domain, node.op]
    least, most = converter.inputs
    present = len(inputs)
    if present < least or any(value is None for value in inputs[:least]) or present > most:
        raise build.fail(
            f"{node.op} has {present} inputs, expected {least} to {most}",
            "the model is damaged: export it again",
        )
    padded = list(inputs) + [None] * (min(most, 64) - present)
    result = converter.convert(build, node, *padded)
    return list(result) if isinstance(result, list | tuple) else [result]  # pyright: ignore[reportReturnType]
