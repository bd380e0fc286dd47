"""Chooses how a part is run: which tensors lie outside the chip, and how many tokens go together.

Where all fits on chip that is best. Else every way to place the tensors is tried, with the number of token
tiles that costs least for each unit, by the latency model.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from espalier.schedules.fpga.memory import CapacityError, Outside, Tensor
from espalier.schedules.fpga.walk import Plan, Unit, Walk, crossing, segments
from espalier.schedules.fpga.work import AttentionWork, LinearWork, Model, NormWork
from espalier.targets.fpga import latency
from espalier.targets.fpga.geometry import Geometry
from espalier.targets.fpga.latency import Cost
from espalier.targets.fpga.simulator import Timing

Item = tuple[str, Cost]
"""The layer that an operation is, or an empty string, and its cost."""
Known = dict[tuple[str, int, int], Sequence[Cost]]
"""Costs of steps by name, tokens and heads."""


@dataclass(frozen=True)
class Planned:
    """A plan and every operation's cost, in order."""

    plan: Plan
    items: tuple[Item, ...]
    cycles: float

    @property
    def costs(self) -> list[Cost]:
        """Without the layers' names."""
        return [cost for _, cost in self.items]


def choose(model: Model, g: Geometry, timing: Timing) -> Planned:
    """The plan with the fewest predicted cycles. Raises CapacityError where none fits."""
    found: list[Planned] = []
    refusals: list[CapacityError] = []
    known: Known = {}
    for outside in _placings(model):
        try:
            planned = _planned(model, outside, g, timing, known)
        except CapacityError as error:
            refusals.append(error)
            continue
        found.append(planned)
        if not outside and all(
            unit.tiles >= latency.tiles_of(model.tokens, g) for unit in planned.plan.units
        ):
            break
    if not found:
        raise refusals[-1]
    return min(found, key=lambda planned: planned.cycles)


def _placings(model: Model) -> Iterator[frozenset[str]]:
    """Tensors outside: none, those that attention reads and makes, all that more than one segment reads."""
    yield frozenset()
    attentions = [step for step in model.steps if isinstance(step, AttentionWork)]
    around = frozenset(n for step in attentions for n in (step.name, step.query, step.key, step.value))
    every = crossing(model)
    if around and around != every:
        yield around & every
    yield every


def _planned(model: Model, outside: frozenset[str], g: Geometry, timing: Timing, known: Known) -> Planned:
    walk = Walk(model, outside, g)
    tally = Tally(g, timing, known)
    walk.begin(tally)
    items = tally.whole()
    units = []
    for first, end in segments(model):
        walk, unit, rows = _cheapest(walk, first, end, timing, known)
        units.append(unit)
        items += rows
    tally = Tally(g, timing, known)
    walk.end(tally)
    items += tally.whole()
    return Planned(
        Plan(tuple(units), outside), tuple(items), latency.total([cost for _, cost in items], timing)
    )


def _cheapest(
    walk: Walk, first: int, end: int, timing: Timing, known: Known
) -> tuple[Walk, Unit, list[Item]]:
    """The best way to do steps `[first, end)`, and the walk after it. CapacityError where none fits."""
    g = walk.geometry
    best: tuple[Walk, Unit, list[Item]] | None = None
    least = math.inf
    refusals: list[CapacityError] = []
    for tiles, ahead in itertools.product(_sizes(walk, first), (True, False)):
        if best and tiles < best[1].tiles / 2:  # half as many were no better already
            break
        trial, unit, tally = walk.copy(), Unit(first, end, tiles, ahead), Tally(g, timing, known)
        try:
            trial.unit(unit, tally)
        except CapacityError as error:
            refusals.append(error)
            continue
        rows = tally.items(walk.model.steps[first].name)
        cycles = sum(cost.compute for _, cost in rows)
        if cycles < least:
            best, least = (trial, unit, rows), cycles
        if not walk.outside:  # fewer tokens at once gain nothing
            break
    if best is None:
        raise refusals[-1]
    return best


def _sizes(walk: Walk, first: int) -> Iterator[int]:
    """Token tiles that a unit may take at a time, the most first."""
    tiles = walk.tiles
    if isinstance(walk.model.steps[first], AttentionWork):
        tiles = min(tiles, walk.geometry.tile_depth)
    yield tiles
    yield from (1 << power for power in reversed(range((tiles - 1).bit_length())))


class Tally:
    """A machine of `walk` that reckons up what a unit costs."""

    def __init__(self, g: Geometry, timing: Timing, known: Known) -> None:
        self._g, self._timing, self._known = g, timing, known
        self._rows: dict[str, Item] = {}
        self._moved: list[Cost] = []
        """Loads and stores of whole tensors or pieces."""
        self._before = self._after = 0
        """Beats loaded while the array waits, and stored after the last step."""
        self._waits = 0

    def load(self, name: str, x: Tensor, place: Outside, *, ahead: bool) -> None:
        """Its beats."""
        cost = self._transfer(f"input {name}", "load", x)
        self._moved.append(cost)
        if not ahead:
            self._before += cost.beats
            self._waits += 1

    def store(self, name: str, x: Tensor, place: Outside) -> None:
        """Its beats."""
        cost = self._transfer(f"output {name}", "store", x)
        self._after = cost.beats
        self._moved.append(cost)

    def settle(self, x: Tensor) -> None:
        """Costs a few cycles, which the memory's latency stands for."""

    def compute(self, step: LinearWork | NormWork, inputs: Sequence[Tensor], out: Tensor) -> None:
        """What the latency model says for these tokens."""
        key = (step.name, out.tokens, 0)
        if key not in self._known:
            self._known[key] = [self._cost(step, out.tokens)]
        self._add(step.layer, *self._known[key])

    def _cost(self, step: LinearWork | NormWork, tokens: int) -> Cost:
        g, timing = self._g, self._timing
        if isinstance(step, NormWork):
            return latency.norm(step.name, tokens, step.features, g, stats=step.stats)
        macs = step.kept * tokens
        if step.streamed:
            return latency.streamed(step.name, tokens, step.words, step.sparse, g, timing, macs)
        return latency.linear(step.name, tokens, step.words, step.sparse, g, timing, macs, tables=step.tables)

    def stream(self, step: LinearWork, x: Tensor, parts: Sequence[Tensor], place: Outside) -> None:
        """The layer, the stores in it."""
        self.compute(step, [x], x)

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
        """Products, copies, softmax, and the sum that hides."""
        g, known = self._g, (step.name, query.tokens, heads)
        if known not in self._known:
            costs = latency.attention(step.name, value.tokens, query.features, heads, g, query.tokens)
            if hidden is not None:
                hide = latency.norm(f"{step.name}.hide", query.tokens, value.tokens, g, stats=False)
                costs.append(replace(hide, compute=hide.compute * heads))
            self._known[known] = costs
        self._add("", *self._known[known])

    def whole(self) -> list[Item]:
        """Transfers with nothing computed meanwhile."""
        return [("", cost) for cost in self._moved]

    def items(self, name: str) -> list[Item]:
        """A unit's operations, and of its transfers what they do not hide behind."""
        rows = list(self._rows.values())
        if not self._moved:
            return rows
        costs = [cost for _, cost in rows]
        rate = self._timing.rate
        loads, stores = (sum(c.beats for c in self._moved if c.kind == kind) for kind in ("load", "store"))
        busy = (sum(cost.beats for cost in costs) + loads + stores) / rate
        over = max(0.0, busy - self._before / rate - self._after / rate - sum(cost.compute for cost in costs))
        wait = self._waits * self._timing.latency + costs[0].fill
        load = Cost(f"{name}.load", "load", self._before / rate + wait + over, loads)
        store = Cost(f"{name}.store", "store", self._after / rate, stores)
        rows = [(layer, replace(cost, fill=0.0)) for layer, cost in rows]
        around = [[("", cost)] if cost.beats else [] for cost in (load, store)]
        return [*around[0], *rows, *around[1]]

    def _transfer(self, name: str, kind: str, x: Tensor) -> Cost:
        return latency.transfer(name, kind, x.tokens, x.features, self._g, self._timing)

    def _add(self, layer: str, *costs: Cost) -> None:
        self._after = 0
        for cost in costs:
            known = (
                self._rows[cost.name][1]
                if cost.name in self._rows
                else replace(cost, compute=0, beats=0, macs=0)
            )
            self._rows[cost.name] = (
                layer,
                replace(
                    known,
                    compute=known.compute + cost.compute,
                    beats=known.beats + cost.beats,
                    macs=known.macs + cost.macs,
                ),
            )
