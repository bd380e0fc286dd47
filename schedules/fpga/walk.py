"""The order of a part's operations, and where their activations lie meanwhile.

A tensor lies on chip from the step that makes it to the last one that reads it, or `outside`: then it is
stored as it is made and loaded where it is read. Steps between two attentions go together, a few token tiles
at a time, so that what only they read is never there whole. An attention of tensors outside goes by groups of
heads. What was stored keeps its place for a step more.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from espalier.schedules.fpga.graph import last_uses
from espalier.schedules.fpga.memory import CapacityError, Memory, Outside, Tensor
from espalier.schedules.fpga.windows import slots_of
from espalier.schedules.fpga.work import AttentionWork, LinearWork, Model, NormWork
from espalier.targets.fpga.geometry import Geometry

INPUTS, OUTPUTS = 1, 2
"""Regions of external memory. Tensors outside lie after the outputs."""


@dataclass(frozen=True)
class Unit:
    """Steps `[first, end)`, for `tiles` token tiles at a time."""

    first: int
    end: int
    tiles: int
    ahead: bool
    """What comes next is loaded while the array is busy, where there is room."""


@dataclass(frozen=True)
class Plan:
    """How a model is run on a geometry."""

    units: tuple[Unit, ...]
    outside: frozenset[str]


@dataclass(frozen=True)
class Places:
    """Where tensors begin in external memory, and the words taken of it."""

    of: dict[str, Outside]
    input_words: int
    output_words: int
    """Of what the model gives."""
    words: int
    """... and of all that is stored."""


class Machine(Protocol):
    """What does the operations, or reckons them up."""

    def load(self, name: str, x: Tensor, place: Outside, *, ahead: bool) -> None:
        """Bring a piece of a tensor in; `ahead` of the step that needs it."""
        ...

    def store(self, name: str, x: Tensor, place: Outside) -> None:
        """Take a piece of a tensor out."""
        ...

    def settle(self, x: Tensor) -> None:
        """What follows may load what was stored up to `x`, or into its place."""
        ...

    def compute(self, step: LinearWork | NormWork, inputs: Sequence[Tensor], out: Tensor) -> None:
        """A step for some tokens."""
        ...

    def stream(self, step: LinearWork, x: Tensor, parts: Sequence[Tensor], place: Outside) -> None:
        """A layer whose rows are computed and stored in turn, in the places `parts`."""
        ...

    def attend(
        self,
        step: AttentionWork,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        hidden: Tensor | None,
        scores: Tensor,
        out: Tensor,
        heads: int,
    ) -> None:
        """So many heads for some queries over all keys."""
        ...


def segments(model: Model) -> list[tuple[int, int]]:
    """Steps that go together: an attention alone, a layer that goes straight out alone, others in runs."""
    found: list[tuple[int, int]] = []
    joined = False
    for index, step in enumerate(model.steps):
        alone = isinstance(step, AttentionWork) or (isinstance(step, LinearWork) and step.streamed)
        if joined and not alone:
            found[-1] = (found[-1][0], index + 1)
        else:
            found.append((index, index + 1))
        joined = not alone
    return found


def crossing(model: Model) -> frozenset[str]:
    """Tensors that are read in another segment than they are made in, or come in or go out."""
    names = {*model.outputs, *(name for name, _ in model.inputs)}
    for first, end in segments(model):
        made = {step.name for step in model.steps[first:end]}
        names.update(name for step in model.steps[first:end] for name in step.inputs if name not in made)
    return frozenset(names)


def places(model: Model, outside: frozenset[str], g: Geometry) -> Places:
    """Inputs in region 1; in region 2 outputs in order, then all else that lies outside."""
    tiles = -(-model.tokens // g.tokens)
    of: dict[str, Outside] = {}
    taken = {INPUTS: 0, OUTPUTS: 0}

    def place(name: str, region: int) -> None:
        stride = slots_of(model.features(name), g)
        of[name] = Outside(region, taken[region], stride)
        taken[region] += tiles * stride

    for name, _ in model.inputs:
        place(name, INPUTS)
    for name in model.outputs:
        place(name, OUTPUTS)
    outputs = taken[OUTPUTS]
    for step in model.steps:
        if step.name in outside and step.name not in of:
            place(step.name, OUTPUTS)
    return Places(of, taken[INPUTS], outputs, taken[OUTPUTS])


@dataclass
class _Chunk:
    """Some token tiles: the tensors at hand by name, and those of them that have a place of their own."""

    first: int
    tiles: int
    local: dict[str, Tensor] = field(default_factory=dict)
    owned: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class _Piece:
    """Features `[column, column + width)` of attention, some heads', for some token tiles of queries."""

    column: int
    first: int
    tiles: int
    width: int


class Walk:
    """One pass over a model: `begin`, a call for each unit, `end`. Each may raise CapacityError."""

    def __init__(self, model: Model, outside: frozenset[str], geometry: Geometry) -> None:
        self.model, self.outside, self.geometry = model, outside, geometry
        self.tiles = -(-model.tokens // geometry.tokens)
        self.places = places(model, outside, geometry)
        self._crossing = crossing(model)
        self._last = last_uses(model.steps, model.outputs)
        self._memory = Memory(geometry)
        self._homes: dict[str, Tensor] = {}
        """Whole tensors on chip."""
        self._leaving: list[Tensor] = []
        """Being stored while the next step is computed."""
        self._stored: Tensor | None = None

    def copy(self) -> Walk:
        """One that goes on by itself from here."""
        other = copy.copy(self)
        other._memory, other._homes, other._leaving = self._memory.copy(), dict(self._homes), [*self._leaving]
        return other

    def begin(self, machine: Machine) -> None:
        """Load what comes in and lies on chip."""
        for name, features in self.model.inputs:
            if name not in self.outside:
                self._homes[name] = self._memory.take(self.model.tokens, features)
                machine.load(name, self._homes[name], self.places.of[name], ahead=False)

    def unit(self, unit: Unit, machine: Machine) -> None:
        """Its steps, for all tokens."""
        step = self.model.steps[unit.first]
        if isinstance(step, AttentionWork):
            self._attention(unit, step, machine)
        else:
            self._rows(unit, machine)

    def end(self, machine: Machine) -> None:
        """Store what goes out and lies on chip."""
        for name in self.model.outputs:
            if name in self._homes:
                machine.store(name, self._homes[name], self.places.of[name])

    # Steps that treat every token alike

    def _rows(self, unit: Unit, machine: Machine) -> None:
        steps = [
            step for step in self.model.steps[unit.first : unit.end] if not isinstance(step, AttentionWork)
        ]
        made = {step.name for step in steps}
        read = list(dict.fromkeys(name for step in steps for name in step.inputs if name not in made))
        last = last_uses(steps, ())
        ahead: _Chunk | None = None
        for first in range(0, self.tiles, unit.tiles):
            chunk = ahead or self._fetch(read, first, unit.tiles, machine, ahead=False)
            ahead, following = None, first + unit.tiles
            for number, step in enumerate(steps):
                self._step(step, chunk, step.name in last, machine)
                wanted = unit.ahead and number == 0 and following < self.tiles
                if wanted and self._has_room(read, following, unit.tiles):
                    ahead = self._fetch(read, following, unit.tiles, machine, ahead=True)
                for name in (name for name, use in last.items() if use == number):
                    if name in chunk.owned:
                        self._memory.free(chunk.owned.pop(name))
                    elif following >= self.tiles:
                        self._leave_home(name, unit.first + number)
        self._settle(unit, machine)

    def _fetch(
        self, names: Sequence[str], first: int, tiles: int, machine: Machine, *, ahead: bool
    ) -> _Chunk:
        """What is read of some token tiles."""
        chunk = _Chunk(first, min(tiles, self.tiles - first))
        for name in names:
            if name in self._homes:
                chunk.local[name] = self._homes[name].rows(first, chunk.tiles, self.geometry)
            else:
                x = self._memory.take(self._tokens(first, tiles), self.model.features(name))
                machine.load(name, x, self.places.of[name].at(first), ahead=ahead)
                chunk.local[name] = chunk.owned[name] = x
        return chunk

    def _has_room(self, names: Sequence[str], first: int, tiles: int) -> bool:
        """Whether `_fetch` would find it."""
        tokens = self._tokens(first, tiles)
        return self._fits([(tokens, self.model.features(n)) for n in names if n not in self._homes])

    def _step(self, step: LinearWork | NormWork, chunk: _Chunk, is_read: bool, machine: Machine) -> None:
        inputs = [chunk.local[name] for name in step.inputs]
        leaving: list[Tensor] = []
        if isinstance(step, LinearWork) and step.streamed:
            leaving = self._memory.parts(inputs[0], step.features)
            machine.stream(step, inputs[0], leaving, self.places.of[step.name].at(chunk.first))
        elif step.name in self._crossing and step.name not in self.outside:
            out = self._home(step).rows(chunk.first, chunk.tiles, self.geometry)
            machine.compute(step, inputs, out)
            chunk.local[step.name] = out
        else:
            out = self._memory.take(self._tokens(chunk.first, chunk.tiles), step.features)
            machine.compute(step, inputs, out)
            chunk.local[step.name] = out
            if step.name in self.outside:
                machine.store(step.name, out, self.places.of[step.name].at(chunk.first))
                self._stored = out
            if is_read:
                chunk.owned[step.name] = out
            else:
                leaving = [out]
        self._leave(leaving)

    # Attention

    def _attention(self, unit: Unit, step: AttentionWork, machine: Machine) -> None:
        """Pieces: a group of heads, some queries. Keys and values stay while their heads are at work."""
        g = self.geometry
        moved = self.outside.intersection((step.query, step.key, step.value, step.name))
        heads = step.group(g) if moved else step.heads
        width = heads * step.features // step.heads
        pieces = [
            _Piece(column, first, min(unit.tiles, self.tiles - first), width)
            for column in range(0, step.features, width)
            for first in range(0, self.tiles, unit.tiles)
        ]
        chunk = self._load_piece(step, pieces[0], _Chunk(0, 0), machine, ahead=False)
        for here, following in zip(pieces, [*pieces[1:], None], strict=True):
            query, key, value = (chunk.local[name] for name in (step.query, step.key, step.value))
            if step.name in self.outside:
                out = self._memory.take(query.tokens, width)
            else:
                out = self._home(step).columns(here.column, width, g).rows(here.first, here.tiles, g)
            scores = self._memory.take(query.tokens, key.tokens)
            machine.attend(step, query, key, value, chunk.local.get(step.hidden), scores, out, heads)
            self._memory.free(scores)
            if step.name in self.outside:
                place = self.places.of[step.name].at(here.first, here.column // g.banks)
                machine.store(step.name, out, place)
                self._stored = out
            self._leave([out] if step.name in self.outside else [])
            chunk = self._next_piece(unit, step, here, following, chunk, machine)
        for name in step.inputs:
            self._leave_home(name, unit.first)
        self._settle(unit, machine)

    def _next_piece(
        self,
        unit: Unit,
        step: AttentionWork,
        here: _Piece,
        following: _Piece | None,
        chunk: _Chunk,
        machine: Machine,
    ) -> _Chunk:
        """What the following piece reads, loaded before what this one read is freed, where there is room."""
        kept = _Chunk(0, 0)
        if following and following.column == here.column:
            for name in {step.key, step.value} & chunk.owned.keys():
                kept.local[name] = kept.owned[name] = chunk.owned.pop(name)
        waiting = list(chunk.owned.values())
        wanted = [] if following is None else self._wanted(step, following, kept)
        ahead = unit.ahead and self._fits([(tokens, features) for _, tokens, features, _ in wanted])
        if not ahead:
            self._memory.free(*waiting)
        if following:
            kept = self._load_piece(step, following, kept, machine, ahead=ahead)
        if ahead:
            self._memory.free(*waiting)
        return kept

    def _wanted(
        self, step: AttentionWork, piece: _Piece, kept: _Chunk
    ) -> list[tuple[str, int, int, tuple[int, int]]]:
        """What a piece has to load: name, tokens, features, and the tile and slot where they begin."""
        slot, tokens = piece.column // self.geometry.banks, self._tokens(piece.first, piece.tiles)
        found = [(step.query, tokens, piece.width, (piece.first, slot))]
        found += [(name, self.model.tokens, piece.width, (0, slot)) for name in (step.key, step.value)]
        if step.hidden:
            found.append((step.hidden, tokens, self.model.features(step.hidden), (piece.first, 0)))
        return [row for row in found if row[0] not in self._homes and row[0] not in kept.owned]

    def _load_piece(
        self, step: AttentionWork, piece: _Piece, kept: _Chunk, machine: Machine, *, ahead: bool
    ) -> _Chunk:
        """What a piece reads; `kept` are keys and values that are there already."""
        g = self.geometry
        chunk = _Chunk(piece.first, piece.tiles, dict(kept.local), dict(kept.owned))
        for name, tokens, features, begin in self._wanted(step, piece, kept):
            x = self._memory.take(tokens, features)
            machine.load(name, x, self.places.of[name].at(*begin), ahead=ahead)
            chunk.local[name] = chunk.owned[name] = x
        for name in (name for name in step.inputs if name in self._homes):
            x = self._homes[name]
            if name != step.hidden:
                x = x.columns(piece.column, piece.width, g)
            if name in (step.query, step.hidden):
                x = x.rows(piece.first, piece.tiles, g)
            chunk.local[name] = x
        return chunk

    # Places

    def _tokens(self, first: int, tiles: int) -> int:
        width = self.geometry.tokens
        return min(tiles * width, self.model.tokens - first * width)

    def _fits(self, sizes: Sequence[tuple[int, int]]) -> bool:
        """Whether there is room for tensors of so many tokens and features."""
        trial = self._memory.copy()
        try:
            for tokens, features in sizes:
                trial.take(tokens, features)
        except CapacityError:
            return False
        return True

    def _home(self, step: LinearWork | NormWork | AttentionWork) -> Tensor:
        """The whole result of a step on chip."""
        if step.name not in self._homes:
            self._homes[step.name] = self._memory.take(self.model.tokens, step.features)
        return self._homes[step.name]

    def _leave_home(self, name: str, index: int) -> None:
        """Free a whole tensor that step `index` is the last to read."""
        if name in self._homes and self._last.get(name) == index:
            self._memory.free(self._homes.pop(name))

    def _leave(self, tensors: list[Tensor]) -> None:
        """Free what was stored before the last step, and note what is being stored now."""
        self._memory.free(*self._leaving)
        self._leaving = tensors

    def _settle(self, unit: Unit, machine: Machine) -> None:
        """Let what follows load what was stored, or into its place."""
        if self._stored is not None and unit.end < len(self.model.steps):
            machine.settle(self._stored)
            self._leave([])
        self._stored = None
