"""The latency model in closed form: cycles of every operation from shapes, geometry and memory timing.

A LINEAR takes `max(windows, pes / width)` cycles a token tile: the array takes a weight word a cycle, the
drain needs pes / width of them. Blocks of rows follow one another without a gap. Their weights stream ahead
through a ring, so an operation takes the longer of its computing and its loading; with few words in the ring
the latency of memory shows as well. Constants are lengths of the pipelines in hardware/rtl.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from espalier.targets.fpga.geometry import Geometry
from espalier.targets.fpga.isa import spec
from espalier.targets.fpga.simulator import Timing

_FETCH = 5  # from the first instruction to its first request
_PIPE = 14  # from the last window of a tile to its first rows in the activation memory
_NORM_SUMS = 7
_NORM_OUT = 12
_ROOT = 30  # and a cycle a token
_DIVIDE = 19
_SOFTMAX_MOST = 3
_SOFTMAX_OUT = 6
_VECTOR = 3  # start, leave
_TABLES = spec()["tables"]
RING = 16
"""Most loads a ring holds."""


@dataclass(frozen=True)
class Cost:
    """One operation: cycles of the compute queue and beats of external memory."""

    name: str
    kind: str
    """linear, turn, softmax, norm, load or store"""
    compute: float
    beats: int = 0
    """read before or while it computes"""
    macs: int = 0
    """multiply-adds that count: kept weights times tokens"""
    fill: float = 0.0
    """linear: the shorter of computing and loading a block, which nothing hides at the beginning"""


def tiles_of(tokens: int, g: Geometry) -> int:
    """Token tiles."""
    return -(-tokens // g.tokens)


def hp_words(k: int, columns: int, n: int, g: Geometry) -> int:
    """Weight words of a block of bank-balanced HP with `columns` kept columns and n of every `banks` kept."""
    return math.ceil(min(columns, k) / g.banks) * math.ceil(n / g.lanes)


def dense_words(k: int, g: Geometry) -> int:
    """Weight words of a dense block."""
    return math.ceil(k / g.banks) * g.passes


def linear(
    name: str,
    tokens: int,
    words: Sequence[int],
    sparse: bool,
    g: Geometry,
    timing: Timing,
    macs: int = 0,
    *,
    tables: bool = False,
) -> Cost:
    """A linear layer whose block b has `words[b]` weight words. Compute includes waits for its weights.

    `tables`: every block has its own activation table.
    """
    tiles = tiles_of(tokens, g)
    params = -(-g.pes // g.params_per_word)
    beat = g.beats("WGT" if sparse else "WGT_DENSE")
    compute = 0.0
    total = 0
    fill = math.inf
    for count in words:
        cycles = tiles * max(count, g.pes // g.width)
        beats = count * beat + params * g.beats("PAR") + tables * g.beats("TAB")
        held = max(1, min(_TABLES if tables else RING, g.wgt_depth // count, g.par_depth // params))
        wait = (cycles + beats / timing.rate + timing.latency + _PIPE) / held
        compute += max(cycles, beats / timing.rate, wait)
        fill = min(fill, cycles, beats / timing.rate)
        total += beats
    return Cost(name, "linear", compute + g.pes / g.width + _PIPE, total, macs, fill)


def streamed(
    name: str, tokens: int, words: Sequence[int], sparse: bool, g: Geometry, timing: Timing, macs: int = 0
) -> Cost:
    """A linear layer whose result goes straight out: the array leaves a cycle to each word stored."""
    inner = linear(name, tokens, words, sparse, g, timing, macs)
    stored = tiles_of(tokens, g) * len(words) * g.pes // g.banks
    beats = inner.beats + stored * g.beats("ACT")
    return replace(inner, compute=max(inner.compute + stored, beats / timing.rate), beats=beats)


def turn(tiles: int, slots: int, passes: int) -> float:
    """Cycles of one TURN."""
    return tiles * slots * (1 + passes) + 1


def softmax(name: str, tokens: int, g: Geometry, queries: int | None = None) -> Cost:
    """SOFTMAX of the scores of `queries`, else of all tokens, over all tokens."""
    steps = math.ceil(tokens / g.banks) * g.banks // g.width
    each = 2 * steps + _SOFTMAX_MOST + _SOFTMAX_OUT + _DIVIDE
    return Cost(name, "softmax", tiles_of(queries or tokens, g) * each + _VECTOR)


def norm(name: str, tokens: int, features: int, g: Geometry, *, stats: bool) -> Cost:
    """NORM with its parameters."""
    steps = 2 * math.ceil(features / g.banks) * g.banks // g.width
    each = steps + _NORM_OUT + stats * (steps + _NORM_SUMS + _ROOT + g.tokens + _DIVIDE)
    words = -(-(features + g.params_per_word) // g.params_per_word)
    return Cost(name, "norm", tiles_of(tokens, g) * each + _VECTOR + 2, words * g.beats("PAR"))


def attention(
    name: str, tokens: int, features: int, heads: int, g: Geometry, queries: int | None = None
) -> list[Cost]:
    """The two products and the softmax of all heads, one after the other; of some `queries`, else of all."""
    size = features // heads
    tiles, rows = tiles_of(tokens, g), tiles_of(queries or tokens, g)
    drain = g.pes / g.width
    turns = products = 0.0
    for head in range(heads):
        skip = head * size % g.banks
        slots = math.ceil((skip + size) / g.banks)
        for first in range(0, tokens, g.pes):
            turns += turn(min(g.pes // g.tokens, tiles - first // g.tokens), slots, g.passes)
            products += rows * max(slots * g.passes, drain) + drain + _PIPE
        for first in range(0, skip + size, g.pes):
            turns += turn(
                tiles, min(g.pes, skip + size - first + g.banks - 1) // g.banks, g.tokens // g.lanes
            )
            products += rows * max(math.ceil(tokens / g.banks) * g.passes, drain) + drain + _PIPE
    # each product waits for the TURN before it: two starts of a queue
    soft = softmax(f"{name}.softmax", tokens, g, queries)
    return [
        Cost(f"{name}.turn", "turn", turns),
        Cost(f"{name}.products", "linear", products, macs=2 * (queries or tokens) * tokens * features),
        Cost(soft.name, "softmax", heads * soft.compute),
    ]


def transfer(name: str, kind: str, tokens: int, features: int, g: Geometry, timing: Timing) -> Cost:
    """Activations in or out."""
    beats = tiles_of(tokens, g) * math.ceil(features / g.banks) * g.beats("ACT")
    return Cost(name, kind, beats / timing.rate, beats)


def total(costs: Sequence[Cost], timing: Timing) -> float:
    """Cycles of a program of these operations in order, from the first fetch on."""
    fill = next((c.fill for c in costs if c.fill), 0.0)
    return 2 * timing.latency + _FETCH + fill + sum(c.compute for c in costs)
