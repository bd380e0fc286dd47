"""What a part of a model asks of the accelerator: shapes and sizes, no values."""

from __future__ import annotations

from dataclasses import dataclass

from espalier.targets.fpga.geometry import Geometry


@dataclass(frozen=True)
class LinearWork:
    """A linear layer on a geometry."""

    name: str
    x: str
    features: int
    words: tuple[int, ...]
    """Weight words of every block of rows."""
    sparse: bool
    kept: int
    """Weights that are not pruned."""
    tables: bool
    """Every block of rows has its activation table."""
    layer: str = ""
    """As reports name it."""
    streamed: bool = False
    """The result goes straight out, as it would fill the chip."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names read."""
        return (self.x,)


@dataclass(frozen=True)
class NormWork:
    """A sum, normalised where `stats`."""

    name: str
    x: str
    residual: str
    features: int
    stats: bool
    layer: str = ""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names read."""
        return (self.x, self.residual)


@dataclass(frozen=True)
class AttentionWork:
    """Attention of all heads; `hidden` is a tensor over queries and keys, where it takes one."""

    name: str
    query: str
    key: str
    value: str
    features: int
    heads: int
    hidden: str = ""
    layer: str = ""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names read."""
        return (self.query, self.key, self.value, *([self.hidden] if self.hidden else []))

    def group(self, geometry: Geometry) -> int:
        """The least heads that end where a slot ends; all of them where there is no such number."""
        size = self.features // self.heads
        for heads in range(1, self.heads):
            if self.heads % heads == 0 and heads * size % geometry.banks == 0:
                return heads
        return self.heads


Work = LinearWork | NormWork | AttentionWork


@dataclass(frozen=True)
class Model:
    """A part for sequences of one length."""

    tokens: int
    inputs: tuple[tuple[str, int], ...]
    """Name and features of what comes in, in the order of external memory."""
    steps: tuple[Work, ...]
    outputs: tuple[str, ...]

    def features(self, name: str) -> int:
        """Of a tensor."""
        known = dict(self.inputs)
        return known[name] if name in known else next(s.features for s in self.steps if s.name == name)
