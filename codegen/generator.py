"""What turns a module that the passes are done with into code: one generator for each kind of target.

A generator is a module with
  DUMPS       the kinds of code it can show, for --dump-code;
  CALIBRATED  whether it needs `State.samples`, whatever the data type;
  generate(state, target, request) -> Product.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from espalier.passes.state import State
    from espalier.runtime.signature import Signature
    from espalier.targets.target import Target

GENERATORS = {"llvm": "espalier.codegen.llvm", "fpga": "espalier.codegen.fpga.generator"}
"""By the kind of target."""


@dataclass(frozen=True)
class Request:
    """What the user asks of the generator."""

    signature: Signature
    dump: Sequence[str] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    """Settings of TVM's PassContext."""
    bounded: frozenset[str] = frozenset()
    """Named dimensions whose most the user has chosen."""


@dataclass(frozen=True)
class Product:
    """Code, and what the package says of it."""

    library: bytes
    """The shared library that holds `main`, for the CPU."""
    dumps: Mapping[str, str]
    """Kind of code to its text."""
    images: Mapping[str, bytes] = field(default_factory=dict)
    """What other devices load: members of the package by name."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the package's metadata that only this generator knows."""
    layers: tuple[Mapping[str, Any], ...] = ()
    """Linear layers that are not among the kernels of `main`, as the metadata lists them."""
    bounds: Mapping[str, int] = field(default_factory=dict)
    """Most of a named dimension, where the code holds less than was asked for."""


class Generator(Protocol):
    """What a generator's module offers."""

    DUMPS: Sequence[str]
    CALIBRATED: bool

    def generate(self, state: State, target: Any, request: Request) -> Product: ...


def generator(target: Target) -> Generator:
    """The generator of a target's kind."""
    return cast(Generator, import_module(GENERATORS[target.kind]))
