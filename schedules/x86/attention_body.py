"""How attention runs.

A job is 16 queries of one head. Queries lie in the lanes, so that the softmax over the keys never looks
across lanes; of keys and values one number at a time is broadcast. Keys come in chunks whose scores stay in
L1; the softmax runs along (Milakov and Gimelshein, Online normalizer calculation for softmax, 2018).

A batch's tokens start anywhere in a tile where S is no multiple of 16. Then the job copies what it reads to
buffers in which they start a tile, and stores its results lane by lane.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from espalier.schedules.x86 import vmath
from espalier.schedules.x86.attention import AttentionWork, Channels
from espalier.schedules.x86.build import (
    LANES,
    Vectors,
    either,
    handle,
    long,
    loop,
    matched,
    number,
    opaque,
    parallel,
    scratch,
    splat,
    store,
    vector,
    when,
    whole,
)

CHUNK = 128
"""Keys whose scores are held: 8 KB."""
ROW = 2 * LANES
"""What a channel takes in a buffer of copies: its 16 numbers stand in the second half."""
TURNS = 4
"""Keys that the sum over the values takes in one turn of its loop."""
HIGHEST, BEFORE, WEIGHT, FACTOR = range(4)
"""State of the softmax: highest score, the one before this chunk, sum of weights, what to scale by."""
LOWEST = -3.4028234663852886e38

Read = Callable[[Any, Any, Any], Any]
"""(tile of the chunk, channel of the head, lane) to one number of the keys or values."""


def emit(work: AttentionWork, rows: int) -> None:
    """Parameters and statements; `rows` vectors of 16 sums fit in registers."""
    pointers = [handle(name) for name in ("q", "k", "v", *(["mask"] if work.mask else []))]
    batch, sequence = number("batch"), number("sequence")
    result = handle("y")
    tiles = tirx.Var("tiles", "int64")
    query = work.query or Channels(work.heads * work.head_dim)
    key = work.key or Channels(work.heads * work.head_dim)
    value = work.value or Channels(work.heads * work.value_dim)
    q, k, v = (
        matched(name, pointer, (tiles, channels.total, LANES))
        for name, pointer, channels in zip("QKV", pointers, (query, key, value), strict=False)
    )
    mask = None
    if work.mask:
        dims = [
            batch if work.mask.batch else 1,
            work.heads if work.mask.heads else 1,
            sequence if work.mask.queries else 1,
            sequence,
        ]
        mask = matched("Mask", pointers[3], tuple(dims), {"add": "float32", "keep": "bool"}[work.mask.kind])
    y = matched("Y", result, (tiles, work.heads * work.value_dim, LANES))
    blocks = (sequence + (LANES - 1)) // LANES
    with parallel("job", batch * work.heads * blocks) as job, opaque("queries"):
        b = whole("b", job // blocks // work.heads)
        head = whole("head", job // blocks % work.heads)
        turn = _Job(work, rows, tiles, sequence, mask)
        turn.place(b, head, job % blocks * LANES)
        turn.load_queries(q, query.first + head * work.head_dim)
        turn.attend(k, key.first + head * work.head_dim, v, value.first + head * work.value_dim)
        turn.finish(y, head * work.value_dim)


def shares(total: int, most: int) -> list[tuple[int, int, int]]:
    """`total` rows in as few groups of up to `most` as will do, as even as can be: (first, size, groups)."""
    groups = -(-total // most)
    small, larger = divmod(total, groups)
    parts = [(0, small + 1, larger), (larger * (small + 1), small, groups - larger)]
    return [(first, size, count) for first, size, count in parts if count and size]


def _number(value: float) -> Any:
    return splat(T.float32(value))


class _Job:
    """16 queries of one head of one batch: the buffers, and the steps in their order."""

    def __init__(self, work: AttentionWork, rows: int, tiles: Any, sequence: Any, mask: Any) -> None:
        self.work, self.rows = work, rows
        self.tiles, self.sequence, self.mask = tiles, sequence, mask
        self.queries = scratch("Queries", work.head_dim * ROW + LANES)
        self.copy = scratch("Copy", CHUNK // LANES * (max(work.head_dim, work.value_dim) * ROW + LANES))
        self.scores = scratch("P", CHUNK * LANES)
        self.out = scratch("O", work.value_dim * LANES)
        self.sums = Vectors("sums", rows)
        self.gathered = scratch("gathered", LANES)
        self.state = Vectors("state", 4)

    def place(self, batch: Any, head: Any, query: Any) -> None:
        """Which batch, which head, and the first of the queries."""
        self.batch, self.head = batch, head
        self.query = whole("query", query)
        self.first = whole("first", batch * self.sequence)
        self.shift = whole("shift", self.first % LANES)

    def load_queries(self, q: Any, channel: Any) -> None:
        tile = (self.first + self.query) // LANES
        with loop("d", self.work.head_dim) as d:
            self._align(self.queries, d * ROW, q, tile, channel + d, _number(self.work.scale))

    def attend(self, k: Any, k_channel: Any, v: Any, v_channel: Any) -> None:
        """All chunks of keys."""
        self.state[HIGHEST] = _number(LOWEST)
        self.state[WEIGHT] = _number(0.0)
        with loop("d", self.work.value_dim) as d:
            store(self.out, [vector(d * LANES)], _number(0.0))
        seen: Any = tirx.min(self.sequence, self.query + LANES) if self.work.causal else self.sequence
        with loop("chunk", (seen + (CHUNK - 1)) // CHUNK) as chunk:
            start = chunk * CHUNK
            count = whole("count", tirx.min(seen - start, long(CHUNK)))
            tile = whole("tile", (self.first + start) // LANES)
            self._read(k, tile, k_channel, count, self.work.head_dim, partial(self._score, count))
            self._soften(start, count)
            self._read(v, tile, v_channel, count, self.work.value_dim, partial(self._mix, count))

    def finish(self, y: Any, channel: Any) -> None:
        """Divide by the sum of the weights and store."""
        self.state[FACTOR] = _number(1.0) / self.state[WEIGHT]
        token = self.first + self.query

        def result(d: Any) -> Any:
            value = self.out[vector(d * LANES)] * self.state[FACTOR]
            if self.work.nan_to_zero:
                return tirx.Select(self.state[WEIGHT] > _number(0.0), value, _number(0.0))
            return value

        def full_tile() -> None:
            with loop("d", self.work.value_dim) as d:
                store(y, [token // LANES, channel + d, vector()], result(d))

        def scattered() -> None:
            with loop("d", self.work.value_dim) as d:
                store(self.out, [vector(d * LANES)], result(d))
                with loop("i", tirx.min(self.sequence - self.query, long(LANES))) as i:
                    place = [(token + i) // LANES, channel + d, (token + i) % LANES]
                    store(y, place, self.out[d * LANES + i])

        full = tirx.all(self.shift == long(0), self.query + LANES <= self.sequence)
        either(full, full_tile, scattered)

    def _align(self, target: Any, row: Any, source: Any, tile: Any, channel: Any, factor: Any = None) -> None:
        """Copy a channel of 16 tokens that start at lane `shift` of a tile to [row + 16, row + 32).

        Two stores of whole tiles do; they spill over no other row's 16 numbers.
        """
        for half in (0, 1):
            value = source[tirx.min(tile + half, self.tiles - 1), channel, vector()]
            place = row + ((half + 1) * LANES - self.shift)
            store(target, [vector(place)], value if factor is None else value * factor)

    def _read(
        self, source: Any, tile: Any, channel: Any, count: Any, width: int, use: Callable[[Read], None]
    ) -> None:
        """Use keys or values where they lie, or a copy where they do not start a tile."""

        def copied() -> None:
            size = width * ROW + LANES
            with loop("t", (count + (LANES - 1)) // LANES) as t, loop("d", width) as d:
                self._align(self.copy, t * size + d * ROW, source, tile + t, channel + d)
            use(lambda t, d, j: self.copy[t * size + d * ROW + (LANES + j)])

        either(self.shift == long(0), lambda: use(lambda t, d, j: source[tile + t, channel + d, j]), copied)

    def _score(self, count: Any, key: Read) -> None:
        """P[j] = key j times the queries, for all keys of the tiles that hold some."""
        with loop("t", (count + (LANES - 1)) // LANES) as t:
            for start, size, groups in shares(LANES, self.rows):
                for j in range(start, start + size * groups, size):
                    self._score_keys(key, t, j, size)

    def _score_keys(self, key: Read, t: Any, j: int, size: int) -> None:
        for r in range(size):
            self.sums[r] = _number(0.0)
        with loop("d", self.work.head_dim) as d:
            for r in range(size):
                self.sums[r] += self.queries[vector(d * ROW + LANES)] * splat(key(t, d, j + r))
        for r in range(size):
            store(self.scores, [vector(t * LANES * LANES + (j + r) * LANES)], self.sums[r])

    def _soften(self, start: Any, count: Any) -> None:
        """P = e^(P - highest), with what went before scaled to the new highest score."""
        self.state[BEFORE] = self.state[HIGHEST]
        with loop("j", count) as j:
            self._apply_mask(start + j, vector(j * LANES))
            self.state[HIGHEST] = tirx.max(self.state[HIGHEST], self.scores[vector(j * LANES)])
        self.state[FACTOR] = vmath.exp_nonpositive(self.state[BEFORE] - self.state[HIGHEST])
        self.state[WEIGHT] = self.state[WEIGHT] * self.state[FACTOR]
        with loop("j", count) as j:
            place = vector(j * LANES)
            store(self.scores, [place], vmath.exp_nonpositive(self.scores[place] - self.state[HIGHEST]))
            self.state[WEIGHT] = self.state[WEIGHT] + self.scores[place]

    def _apply_mask(self, key: Any, place: Any) -> None:
        """The mask and the causal limit on the scores of one key."""
        scores, never = self.scores[place], _number(float("-inf"))
        kind = self.work.mask
        if kind:
            batch, head = self.batch if kind.batch else 0, self.head if kind.heads else 0
            if kind.queries:
                with loop("i", LANES) as i:
                    entry = self.mask[batch, head, tirx.min(self.query + i, self.sequence - 1), key]
                    if kind.kind == "keep":
                        entry = tirx.Select(entry, T.float32(1.0), T.float32(0.0))
                    store(self.gathered, [i], entry)
                value = self.gathered[vector()]
                keep = value > _number(0.0)
            else:
                value = keep = splat(self.mask[batch, head, 0, key])
            store(
                self.scores,
                [place],
                scores + value if kind.kind == "add" else tirx.Select(keep, scores, never),
            )
        if self.work.causal:
            store(self.scores, [place], tirx.Select(splat(key) <= vector(self.query), scores, never))

    def _mix(self, count: Any, value: Read) -> None:
        """O = factor O + sum over the keys of P V."""
        for first, size, groups in shares(self.work.value_dim, self.rows):
            with loop("g", groups) as g:
                self._mix_rows(count, value, first + g * size, size)

    def _mix_rows(self, count: Any, value: Read, d: Any, size: int) -> None:
        for r in range(size):
            self.sums[r] = self.out[vector((d + r) * LANES)] * self.state[FACTOR]

        def add(t: Any, j: Any) -> None:
            scores = self.scores[vector(t * LANES * LANES + j * LANES)]
            for r in range(size):
                self.sums[r] += scores * splat(value(t, d + r, j))

        with loop("t", count // LANES) as t, loop("j", LANES // TURNS) as j:
            for i in range(TURNS):
                add(t, j * TURNS + i)
        with when(count % LANES > 0), loop("j", count % LANES) as j:
            add(count // LANES, j)
        for r in range(size):
            store(self.out, [vector((d + r) * LANES)], self.sums[r])
