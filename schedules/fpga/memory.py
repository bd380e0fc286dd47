"""Activation memory: what lies where on chip, and where it lies outside."""

from __future__ import annotations

from dataclasses import dataclass, replace

from espalier.schedules.fpga.windows import slots_of
from espalier.targets.fpga.geometry import Geometry

STORED_BLOCKS = 4
"""Blocks of rows computed before they are stored, where a result goes straight out."""


class CapacityError(ValueError):
    """A model that does not fit the memories of the geometry."""


@dataclass(frozen=True)
class Tensor:
    """Activations on chip: int8 `[tokens, features]` in tiles."""

    base: int
    stride: int
    """Words from tile to tile."""
    tiles: int
    tokens: int
    features: int

    @property
    def words(self) -> int:
        """Activation words."""
        return self.tiles * self.stride

    def rows(self, first: int, tiles: int, geometry: Geometry) -> Tensor:
        """Token tiles `[first, first + tiles)` of it."""
        tokens = min(tiles * geometry.tokens, self.tokens - first * geometry.tokens)
        return replace(self, base=self.base + first * self.stride, tiles=tiles, tokens=tokens)

    def columns(self, first: int, features: int, geometry: Geometry) -> Tensor:
        """Features `[first, first + features)` of it; `first` begins a slot."""
        return replace(self, base=self.base + first // geometry.banks, features=features)


@dataclass(frozen=True)
class Outside:
    """Where a tensor, or a piece of one, begins in external memory; in activation words."""

    region: int
    first: int
    stride: int
    """Words from tile to tile."""

    def at(self, tile: int, slot: int = 0) -> Outside:
        """The piece that begins there."""
        return replace(self, first=self.first + tile * self.stride + slot)


class Memory:
    """The activation memory, the first place that is large enough first."""

    def __init__(self, geometry: Geometry, free: tuple[tuple[int, int], ...] | None = None) -> None:
        self.geometry = geometry
        self._free = [(0, geometry.act_depth)] if free is None else list(free)

    def copy(self) -> Memory:
        """With the same places taken."""
        return Memory(self.geometry, tuple(self._free))

    def take(self, tokens: int, features: int) -> Tensor:
        """Room on chip. Raises CapacityError when there is none."""
        g = self.geometry
        stride = slots_of(features, g)
        tiles = -(-tokens // g.tokens)
        words = stride * tiles
        for index, (low, high) in enumerate(self._free):
            if high - low >= words:
                self._free[index] = (low + words, high)
                return Tensor(low, stride, tiles, tokens, features)
        room = sum(high - low for low, high in self._free)
        raise CapacityError(
            f"{tokens} x {features} activations need {words} words in one piece; {room} of the "
            f"{g.act_depth} on chip are free"
        )

    def free(self, *tensors: Tensor) -> None:
        """Give tensors' room back; what is built later may overwrite them."""
        spans = sorted([*self._free, *((t.base, t.base + t.words) for t in tensors)])
        merged = spans[:1]
        for low, high in spans[1:]:
            if low == merged[-1][1]:
                merged[-1] = (merged[-1][0], high)
            else:
                merged.append((low, high))
        self._free = [span for span in merged if span[1] > span[0]]

    def parts(self, x: Tensor, rows: int) -> list[Tensor]:
        """Places for a few blocks of a layer's `rows`, two if they take turns: one is stored meanwhile.

        Raises CapacityError when there is no room.
        """
        g = self.geometry
        room = max((high - low for low, high in self._free), default=0) // (2 * x.tiles)
        step = max(1, min(room * g.banks // g.pes, STORED_BLOCKS)) * g.pes
        return [self.take(x.tokens, min(step, rows)) for _ in range(1 + (rows > step))]
