"""The kernels over tiles: see tile_linear.py for what they do, tile_shape.py for how their constants lie."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from tvm import tirx

from espalier.schedules.linear import Epilogue
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
    parameter,
    splat,
    store,
    vector,
    when,
)
from espalier.schedules.x86.epilogue import End
from espalier.schedules.x86.tile_shape import TileShape

MAX_LISTS = 8
"""Rows with lists of their own: each needs a general register for its columns."""
NARROW = 4
"""Lanes for a last tile of at most twice as many tokens.

TVM lets buffers share memory where one is at most 16 times as large, and LLVM then fails to keep them in
registers: those of whole vectors are larger."""
MAX_SUMS = 12
"""Registers of sums that leave enough for the rest."""

Key = tuple[int, int, int, int]
"""A sum: (part of the tokens, group of rows, row, vector)."""


def emit(
    shape: TileShape, epilogue: Epilogue, tiles: int, rows_first: bool, lanes: int, fixed: int | None
) -> None:
    """Parameters (x, constants, [bias], [residual], tokens, y) and statements of the function.

    lanes: of the CPU's vectors. fixed: the number of tokens, where it is always the same.
    """
    x = handle("x")
    index, weights, pieces, order = _declare_constants(shape)
    end = End.declare(epilogue, shape.n)
    tokens = number("tokens")
    y = handle("y")
    m_tiles: Any = tirx.Var("m_tiles", "int64")
    x = matched("X", x, (m_tiles, shape.k, 16))
    y = matched("Y", y, (m_tiles, shape.n, 16))
    end.match((m_tiles, shape.n, 16))
    if shape.ragged:
        entries = tirx.Var("entries", "int64")
        index = matched("I", index, (entries, *shape.entry_index), shape.index_type)
        weights = matched("W", weights, (entries, *shape.entry_weights))
    last = None if fixed is None else last_part(shape, tiles, lanes, fixed)
    jobs: Any = (m_tiles + (tiles - 1)) // tiles if last is None else long(last.jobs)
    with parallel("job", jobs * shape.blocks) as job:
        block, part = (job // jobs, job % jobs) if rows_first else (job % shape.blocks, job // shape.blocks)
        turn = _Turn(shape, end, x, index, weights, pieces, order, y, block)
        first = part * tiles
        whole = partial(turn.emit, [Tokens(first, tiles)], 1)
        if last is None:
            wide = _wide(tokens)
            either(first + tiles <= wide, whole, partial(_rest, turn, tiles, first, wide, tokens))
        elif last.jobs == 1 or (last.sizes, last.vectors) == (((tiles, 1),), 0):
            last.emit(turn, first)
        else:
            either(part < last.jobs - 1, whole, partial(last.emit, turn, first))


def _wide(tokens: Any) -> Any:
    """Tiles that are done with whole vectors: a last one of few tokens is done with narrower ones."""
    return (tokens + (LANES - 1 - 2 * NARROW)) // LANES


def _declare_constants(shape: TileShape) -> tuple[Any, Any, Any, Any]:
    """(I, W, P, O), None for what the kernel does not read."""
    if shape.lists == "empty":
        return None, None, None, None
    if shape.ragged:
        pieces = parameter("P", (shape.pieces + 1,), "int32")
        index, weights = handle("indices"), handle("weights")
        order = parameter("O", (shape.pieces, shape.rows), "int32") if shape.sorted else None
        return index, weights, pieces, order
    index = None if shape.lists == "none" else parameter("I", shape.index_shape, shape.index_type)
    return index, parameter("W", shape.weight_shape), None, None


def _rest(turn: _Turn, tiles: int, first: Any, wide: Any, tokens: Any) -> None:
    """The last tiles: whole ones, fewer than `tiles`, by the bits of their number, then the narrow one."""
    rest = wide - first
    size = 1 << (tiles - 1).bit_length() - 1 if tiles > 1 else 0
    while size:
        with when(rest // size % 2 == 1):
            tokens_at = Tokens(first + rest // (2 * size) * (2 * size), size)
            turn.emit([tokens_at], _at_once(turn.shape, tiles // size))
        size //= 2
    left = tokens - wide * LANES
    with when(left > 0):
        either(left > NARROW, lambda: _narrow(turn, wide, 2), lambda: _narrow(turn, wide, 1))


def _narrow(turn: _Turn, tile: Any, vectors: int) -> None:
    groups = _at_once(turn.shape, MAX_SUMS // (turn.shape.rows * vectors))
    turn.emit([Tokens(tile, vectors, NARROW)], groups)


def _at_once(shape: TileShape, wanted: int) -> int:
    """Groups of rows that are in registers together, `wanted` of them if nothing forbids it."""
    groups = 1 if shape.ragged else min(wanted, shape.groups)
    return max(1, min(groups, MAX_LISTS // shape.rows) if shape.lists == "row" else groups)


@dataclass(frozen=True)
class LastPart:
    """The last part of a number of tokens that is known: whole tiles by the bits of their number, then a
    narrow one of `vectors`, together with the tiles before it where the sums fit the registers.

    jobs: parts of the tokens, this one among them. sizes: (tiles, groups of rows at once).
    """

    jobs: int
    sizes: tuple[tuple[int, int], ...]
    vectors: int
    together: bool

    def emit(self, turn: _Turn, first: Any) -> None:
        """From tile `first` on."""
        for i, (size, groups) in enumerate(self.sizes):
            parts = [Tokens(first, size)]
            first = first + size
            if self.together and i == len(self.sizes) - 1:
                parts.append(Tokens(first, self.vectors, NARROW))
            turn.emit(parts, groups)
        if self.vectors and not self.together:
            _narrow(turn, first, self.vectors)


def last_part(shape: TileShape, tiles: int, lanes: int, tokens: int) -> LastPart:
    """Of `tokens`, of which `tiles` tiles are done at once, on a CPU with vectors of `lanes`."""
    wide = _wide(tokens)
    vectors = -(-max(0, tokens - wide * LANES) // NARROW)
    whole, rest = divmod(wide, tiles)

    def fits(size: int, groups: int) -> bool:
        return shape.rows * groups * (size * LANES // lanes + vectors) <= MAX_SUMS

    if whole and not rest and (not vectors or fits(tiles, 1)):
        return LastPart(whole, ((tiles, 1),), vectors, vectors > 0)
    powers = (1 << bit for bit in reversed(range(rest.bit_length())))
    sizes = tuple((size, _at_once(shape, tiles // size)) for size in powers if rest & size)
    return LastPart(whole + 1, sizes, vectors, bool(sizes and vectors and fits(*sizes[-1])))


@dataclass(frozen=True)
class Tokens:
    """Tokens in registers at once: whole tiles, or the first `vectors` narrow parts of one."""

    tile: Any
    vectors: int
    lanes: int = LANES

    def place(self, i: int, row: Any) -> list[Any]:
        """Where the i-th vector of a row lies in x or y."""
        if self.lanes == LANES:
            return [self.tile + i, row, vector()]
        return [self.tile, row, vector(i * self.lanes, self.lanes)]

    def splat(self, value: Any) -> Any:
        """One number in every lane."""
        return splat(value, self.lanes)


@dataclass(frozen=True)
class _Turn:
    """One block of rows for some tiles."""

    shape: TileShape
    end: End
    x: Any
    index: Any
    weights: Any
    pieces: Any
    order: Any
    y: Any
    block: Any

    def emit(self, parts: Sequence[Tokens], groups: int) -> None:
        """All rows of the block, `groups` groups in registers together."""
        shape = self.shape
        count: Any = long(shape.groups)
        if shape.n % shape.height:
            left = (shape.n - self.block * shape.height + (shape.rows - 1)) // shape.rows
            count = tirx.min(count, left)
        with loop("chunk", shape.chunks) as chunk:
            with loop("group", count // groups) as group:
                _Rows(self, parts, groups, chunk, group * groups).emit()
            if groups > 1 and (shape.n % shape.height or shape.groups % groups):
                with loop("group", count % groups) as group:
                    _Rows(self, parts, 1, chunk, count // groups * groups + group).emit()


class _Sums:
    """Sums in registers, by (part of the tokens, group of rows, row, vector)."""

    def __init__(self, parts: Sequence[Tokens], groups: int, rows: int) -> None:
        self.keys = [
            [(p, s, r, b) for s in range(groups) for r in range(rows) for b in range(part.vectors)]
            for p, part in enumerate(parts)
        ]
        self._place = {key: i for keys in self.keys for i, key in enumerate(keys)}
        self._vectors = [
            Vectors("acc", len(keys), part.lanes) for keys, part in zip(self.keys, parts, strict=True)
        ]

    def __getitem__(self, key: Key) -> Any:
        return self._vectors[key[0]][self._place[key]]

    def __setitem__(self, key: Key, value: Any) -> None:
        self._vectors[key[0]][self._place[key]] = value


@dataclass(frozen=True)
class _Rows:
    """The innermost part: `groups` groups of rows from `group` on."""

    turn: _Turn
    parts: Sequence[Tokens]
    groups: int
    chunk: Any
    group: Any

    def emit(self) -> None:
        shape, turn = self.turn.shape, self.turn
        with opaque("rows"):
            acc = _Sums(self.parts, self.groups, shape.rows)

            def clear() -> None:
                for keys in acc.keys:
                    for key in keys:
                        acc[key] = self.parts[key[0]].splat(tirx.const(0, "float32"))

            def pick_up() -> None:
                if self._rows_are_short:
                    clear()  # rows past N have no place in Y
                self._each_row(lambda key, at: acc.__setitem__(key, turn.y[at[0], at[1], at[2]]))

            def leave() -> None:
                self._each_row(lambda key, at: store(turn.y, at, acc[key]))

            def finish() -> None:
                self._each_row(lambda key, at: store(turn.y, at, self._ended(acc[key], key, at)))

            if shape.chunks == 1:
                clear()
            else:
                either(self.chunk == 0, clear, pick_up)
            if shape.lists != "empty":
                self._sum(acc)
            if shape.chunks == 1:
                finish()
            else:
                either(self.chunk == shape.chunks - 1, finish, leave)

    def _ended(self, sums: Any, key: Key, at: list[Any]) -> Any:
        return self.turn.end.apply(sums, lambda bias: self.parts[key[0]].splat(bias[at[1]]), at)

    @property
    def _rows_are_short(self) -> bool:
        shape = self.turn.shape
        return bool(shape.height % shape.rows or shape.n % shape.rows)

    def _each_row(self, do: Callable[[Key, list[Any]], None]) -> None:
        """`do(sum, its place in Y)` for each sum whose row exists."""
        shape = self.turn.shape
        for s in range(self.groups):
            for r in range(shape.rows):
                inside = (self.group + s) * shape.rows + r
                row = self.turn.block * shape.height + inside
                if shape.sorted:
                    row = self.turn.order[self._piece, r].astype("int64")
                limits = list(self._limits(r, inside, row))
                if limits:
                    with when(tirx.all(*limits)):
                        self._each_vector(s, r, row, do)
                else:
                    self._each_vector(s, r, row, do)

    def _each_vector(self, s: int, r: int, row: Any, do: Callable[[Key, list[Any]], None]) -> None:
        for p, part in enumerate(self.parts):
            for b in range(part.vectors):
                do((p, s, r, b), part.place(b, row))

    def _limits(self, r: int, inside: Any, row: Any) -> Iterator[Any]:
        """Conditions for a row to exist; the first row of a group always does."""
        shape = self.turn.shape
        if r and shape.height % shape.rows:
            yield inside < shape.height
        if r and self._rows_are_short:
            yield row < shape.n

    def _sum(self, acc: _Sums) -> None:
        """The loop along the lists."""
        shape, turn = self.turn.shape, self.turn
        first, last = self._span()
        with loop("j", last, first) as j:
            for q in range(4 if shape.lists == "row" else 1):
                for s in range(self.groups):
                    at = [j] if shape.ragged else [turn.block, self.chunk, self.group + s, j]
                    for r in range(shape.rows):
                        column, weight = self._operands(at, j, r, q)
                        for p, part in enumerate(self.parts):
                            for b in range(part.vectors):
                                key = (p, s, r, b)
                                x = turn.x[tuple(part.place(b, column))]
                                acc[key] = acc[key] + x * part.splat(weight)

    @property
    def _piece(self) -> Any:
        """A group of rows in a chunk of a ragged matrix."""
        shape = self.turn.shape
        return (self.turn.block * shape.chunks + self.chunk) * shape.groups + self.group

    def _span(self) -> tuple[Any, Any]:
        shape, turn = self.turn.shape, self.turn
        if shape.ragged:
            return turn.pieces[self._piece].astype("int64"), turn.pieces[self._piece + 1].astype("int64")
        if shape.lists == "none" and shape.k % shape.count:
            return long(0), tirx.min(long(shape.count), shape.k - self.chunk * shape.count)
        return long(0), long(shape.steps)

    def _operands(self, at: list[Any], j: Any, r: int, q: int) -> tuple[Any, Any]:
        """The column of x and the weight that multiplies it, for an entry that lies `at` in the constants."""
        shape, turn = self.turn.shape, self.turn
        match shape.lists:
            case "row":
                word = turn.index[(*at, r)] >> tirx.const(16 * q, "uint64")
                column = word & tirx.const(0xFFFF, "uint64")
                return column.astype("int64"), turn.weights[(*at, r, q)]
            case "group":
                return turn.index[tuple(at)].astype("int64"), turn.weights[(*at, r)]
            case "block":
                column = turn.index[turn.block, self.chunk, j]
                return column.astype("int64"), turn.weights[(*at, r)]
            case _:
                return self.chunk * shape.count + j, turn.weights[(*at, r)]
