"""How attention over a cache runs.

A job is one head: its keys and values are read once for the first of the new tokens, mostly the only one,
from where they lie, and from a cache for the others. A key's numbers lie in the lanes. Keys come in chunks,
and the softmax runs along (Milakov and Gimelshein, Online normalizer calculation for softmax, 2018).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from espalier.schedules.x86 import fold, vmath
from espalier.schedules.x86.attention_body import LOWEST, shares
from espalier.schedules.x86.build import (
    LANES,
    Vectors,
    handle,
    loop,
    matched,
    number,
    opaque,
    parallel,
    scratch,
    splat,
    store,
    vector,
    whole,
)
from espalier.schedules.x86.cached_attention import CachedAttentionWork

CHUNK = 128
"""Keys whose scores are held."""
TURNS = 4
"""Keys that are scored side by side."""
HIGHEST, BEFORE, WEIGHT, FACTOR = range(4)
"""State of the softmax: highest score, the one before this chunk, sum of weights, what to scale by."""

Read = Callable[[Any, Any], Any]
"""(token, places in the head) to numbers of the keys or values."""


def emit(work: CachedAttentionWork, rows: int) -> None:
    """Parameters and statements; `rows` vectors of 16 sums fit in registers."""
    names = ("Q", "CachedK", "CachedV", "NewK", "NewV")
    pointers = [handle(name) for name in names]
    masked = handle("mask") if work.mask else None
    places = [number(f"{name}_place") for name in names]
    result = handle("y")
    batch, tokens, past = (tirx.Var(name, "int64") for name in ("batch", "tokens", "past"))
    query, cached_keys, cached_values, new_keys, new_values = (
        matched(name, pointer, (tirx.Var(f"{name}_n", "int64"), batch, work.heads, length, width))
        for name, pointer, length, width in zip(
            names,
            pointers,
            (tokens, past, past, tokens, tokens),
            (work.head_dim, work.head_dim, work.value_dim, work.head_dim, work.value_dim),
            strict=True,
        )
    )
    mask = _mask(work, masked, batch, tokens, past)
    y = matched("Y", result, (batch, tokens, work.heads * work.value_dim))
    with parallel("job", batch * work.heads) as job, opaque("head"):
        b, head = whole("b", job // work.heads), whole("head", job % work.heads)

        def read(buffer: Any, place: Any) -> Read:
            return lambda token, d: buffer[place, b, head, token, d]

        turn = _Job(work, rows)
        with loop("s", tokens) as s:
            turn.begin(lambda d: query[places[0], b, head, s, d])
            for keys, values, count, first in (
                (read(cached_keys, places[1]), read(cached_values, places[2]), past, 0),
                (read(new_keys, places[3]), read(new_values, places[4]), tokens, past),
            ):
                turn.attend(keys, values, count, _mask_of(work, mask, b, head, s, first))
            turn.finish(lambda d, value: store(y, [b, s, _moved(d, head * work.value_dim)], value))


def _mask(work: CachedAttentionWork, pointer: Any, batch: Any, tokens: Any, past: Any) -> Any:
    kind = work.mask
    if kind is None:
        return None
    dims = (
        batch if kind.batch else 1,
        work.heads if kind.heads else 1,
        tokens if kind.queries else 1,
        past + tokens,
    )
    return matched("Mask", pointer, dims, {"add": "float32", "keep": "bool"}[kind.kind])


def _mask_of(
    work: CachedAttentionWork, mask: Any, b: Any, head: Any, s: Any, first: Any
) -> Callable[[Any, Any], Any] | None:
    """(key, its score) to the score under the mask; keys count from `first` on."""
    kind = work.mask
    if kind is None:
        return None

    def score(key: Any, value: Any) -> Any:
        entry = mask[b if kind.batch else 0, head if kind.heads else 0, s if kind.queries else 0, first + key]
        return value + entry if kind.kind == "add" else tirx.Select(entry, value, T.float32(float("-inf")))

    return score


def _moved(places: Any, start: Any) -> Any:
    """Places, or one place, `start` further on."""
    if isinstance(places, tirx.Ramp):
        return vector(places.base + start, places.lanes)
    return places + start


class _Job:
    """The new tokens of one head of one batch, one after another: the buffers, and the steps."""

    def __init__(self, work: CachedAttentionWork, rows: int) -> None:
        self.work, self.rows = work, rows
        self.query = scratch("query", work.head_dim)
        self.scores = scratch("P", CHUNK + LANES)
        self.out = scratch("O", work.value_dim)
        self.sums = Vectors("sums", max(rows, TURNS))
        self.state = scratch("state", 4)

    def begin(self, query: Callable[[Any], Any]) -> None:
        """Take one token's query, times the scale."""
        scale = T.float32(self.work.scale)
        _each(
            self.work.head_dim,
            lambda d: store(self.query, [d], query(d) * (splat(scale) if _wide(d) else scale)),
        )
        zero = T.float32(0.0)
        _each(self.work.value_dim, lambda d: store(self.out, [d], splat(zero) if _wide(d) else zero))
        store(self.state, [HIGHEST], T.float32(LOWEST))
        store(self.state, [WEIGHT], zero)

    def attend(self, keys: Read, values: Read, total: Any, mask: Callable[[Any, Any], Any] | None) -> None:
        """All chunks of `total` keys."""
        with loop("chunk", (total + (CHUNK - 1)) // CHUNK) as chunk:
            start = whole("start", chunk * CHUNK)
            count = whole("count", tirx.min(total - start, T.int64(CHUNK)))
            with loop("t", count // TURNS) as t:
                self._score(keys, start, [t * TURNS + i for i in range(TURNS)])
            with loop("j", count, count // TURNS * TURNS) as j:
                self._score(keys, start, [j])
            if mask is not None:
                with loop("j", count) as j:
                    store(self.scores, [j], mask(start + j, self.scores[j]))
            self._soften(count)
            self._mix(values, start, count)

    def finish(self, put: Callable[[Any, Any], None]) -> None:
        """Divide by the sum of the weights and store."""
        weight = self.state[WEIGHT]
        factor = T.float32(1.0) / weight
        if self.work.nan_to_zero:
            factor = tirx.Select(weight > T.float32(0.0), factor, T.float32(0.0))
        store(self.state, [FACTOR], factor)
        _each(self.work.value_dim, lambda d: put(d, self.out[d] * self._like(FACTOR, d)))

    def _like(self, place: int, d: Any) -> Any:
        """A number of the state, in as many lanes as there are places."""
        return splat(self.state[place]) if _wide(d) else self.state[place]

    def _score(self, keys: Read, start: Any, js: list[Any]) -> None:
        """P[j] = key j times the query."""
        size = self.work.head_dim
        for i in range(len(js)):
            self.sums[i] = splat(T.float32(0.0))
        with loop("d", size // LANES) as d:
            place = vector(d * LANES)
            for i, j in enumerate(js):
                self.sums[i] += self.query[place] * keys(start + j, place)
        for i, j in enumerate(js):
            store(self.scores, [j], fold.total(self.sums[i]))
            with loop("d", size, size // LANES * LANES) as d:
                store(self.scores, [j], self.scores[j] + self.query[d] * keys(start + j, d))

    def _soften(self, count: Any) -> None:
        """P = e^(P - highest), with what went before scaled to the new highest score."""
        # lanes past the last key weigh nothing
        store(self.scores, [vector(count)], splat(T.float32(float("-inf"))))
        vectors = (count + (LANES - 1)) // LANES
        state, sums = self.state, self.sums
        store(state, [BEFORE], state[HIGHEST])
        sums[0] = splat(state[HIGHEST])
        with loop("j", vectors) as j:
            sums[0] = tirx.max(sums[0], self.scores[vector(j * LANES)])
        store(state, [HIGHEST], fold.highest(sums[0]))
        store(state, [FACTOR], vmath.exp_nonpositive(state[BEFORE] - state[HIGHEST]))
        sums[0] = splat(T.float32(0.0))
        with loop("j", vectors) as j:
            place = vector(j * LANES)
            store(self.scores, [place], vmath.exp_nonpositive(self.scores[place] - splat(state[HIGHEST])))
            sums[0] += self.scores[place]
        store(state, [WEIGHT], state[WEIGHT] * state[FACTOR] + fold.total(sums[0]))

    def _mix(self, values: Read, start: Any, count: Any) -> None:
        """O = factor O + sum over the keys of P V."""
        size = self.work.value_dim
        for first, many, groups in shares(size // LANES, self.rows) if size >= LANES else ():
            with loop("g", groups) as g:
                self._mix_vectors(values, start, count, first + g * many, many)
        with loop("d", size, size // LANES * LANES) as d:
            store(self.out, [d], self.out[d] * self.state[FACTOR])
            with loop("j", count) as j:
                store(self.out, [d], self.out[d] + self.scores[j] * values(start + j, d))

    def _mix_vectors(self, values: Read, start: Any, count: Any, first: Any, many: int) -> None:
        places = [vector((first + r) * LANES) for r in range(many)]
        for r in range(many):
            self.sums[r] = self.out[places[r]] * splat(self.state[FACTOR])
        with loop("j", count) as j:
            for r in range(many):
                self.sums[r] += splat(self.scores[j]) * values(start + j, places[r])
        for r in range(many):
            store(self.out, [places[r]], self.sums[r])


def _each(size: int, act: Callable[[Any], None]) -> None:
    """`act` on all places under `size`: whole vectors, then one by one."""
    with loop("d", size // LANES) as d:
        act(vector(d * LANES))
    with loop("d", size, size // LANES * LANES) as d:
        act(d)


def _wide(places: Any) -> bool:
    return isinstance(places, tirx.Ramp)
