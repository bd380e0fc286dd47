"""The int8 kernels: see int8_linear.py for what they do, int8_shape.py for how their constants lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from espalier.schedules.linear import Epilogue
from espalier.schedules.x86.build import (
    LANES,
    either,
    handle,
    loop,
    matched,
    opaque,
    parallel,
    parameter,
    scratch,
    splat,
    store,
    vector,
    when,
)
from espalier.schedules.x86.epilogue import End
from espalier.schedules.x86.int8_dot import Multiplier
from espalier.schedules.x86.int8_shape import Int8Shape


def emit(
    shape: Int8Shape, epilogue: Epilogue, tiles: int, vectors: int, lanes: int, static: bool, rows_first: bool
) -> None:
    """Parameters (x, [scale and zero of the tokens], constants, [bias], [residual], y) and statements.

    tiles: for which columns are gathered at once. vectors: of tokens whose sums are in registers at once, of
    `lanes` i32 each.
    """
    x = handle("x")
    factors, zeros = (None, None) if static else (handle("scales"), handle("zeros"))
    index = None if shape.dense else parameter("I", shape.index_shape, shape.index_type)
    weights = parameter("W", shape.weight_shape, "int32")
    scale, offset = parameter("Scale", (shape.n,)), parameter("Offset", (shape.n,), "int32")
    end = End.declare(epilogue, shape.n)
    y = handle("y")
    m_tiles: Any = tirx.Var("m_tiles", "int64")
    x = matched("X", x, (m_tiles, shape.k, LANES), "uint8")
    if not static:
        factors = matched("S", factors, (m_tiles, LANES))
        zeros = matched("Z", zeros, (m_tiles, LANES), "int32")
    y = matched("Y", y, (m_tiles, shape.n, LANES))
    end.match((m_tiles, shape.n, LANES))
    jobs = (m_tiles + (tiles - 1)) // tiles
    with parallel("job", jobs * shape.jobs) as job:
        part, block = (job % jobs, job // jobs) if rows_first else (job // shape.jobs, job % shape.jobs)
        first = part * tiles
        turn = _Turn(
            shape, vectors, lanes, m_tiles, end, x, factors, zeros, index, weights, scale, offset, y, block
        )
        if tiles == 1:
            turn.emit(1, first)
        else:
            either(
                first + tiles <= m_tiles,
                lambda: turn.emit(tiles, first),
                lambda: _rest(turn, first, m_tiles),
            )


def _rest(turn: _Turn, first: Any, m_tiles: Any) -> None:
    with loop("rest", m_tiles - first) as rest:
        turn.emit(1, first + rest)


@dataclass(frozen=True)
class _Turn:
    """The lists of one job for some tiles."""

    shape: Int8Shape
    vectors: int
    lanes: int
    m_tiles: Any
    end: End
    x: Any
    factors: Any
    zeros: Any
    index: Any
    weights: Any
    scale: Any
    offset: Any
    y: Any
    job: Any

    def emit(self, tiles: int, tile: Any) -> None:
        shape = self.shape
        count: Any = T.int64(shape.lists)
        if shape.all_lists % shape.lists:
            count = tirx.min(count, shape.all_lists - self.job * shape.lists)
        with opaque("lists"):
            panel = scratch("panel", shape.steps * tiles * LANES, "int32")
            with loop("list", count) as one:
                number = self.job * shape.lists + one
                self._gather(panel, tiles, tile, number)
                groups: Any = T.int64(shape.groups)
                if shape.n % shape.height:
                    left = (shape.n - number * shape.height + (shape.rows - 1)) // shape.rows
                    groups = tirx.min(groups, left)
                with loop("group", groups) as group:
                    self._rows(panel, tiles, tile, number, group)

    def _gather(self, panel: Any, tiles: int, tile: Any, number: Any) -> None:
        """The columns of a list, those of a step side by side in each token's 32 bits."""
        shape = self.shape
        count = shape.dot.columns

        def step(j: Any, columns: list[Any]) -> None:
            for b in range(tiles):
                row = [T.bind(self.x[tile + b, column, vector()]) for column in columns]
                for i, value in enumerate(_interleaved(row)):
                    lanes = value.ty.dtype.lanes
                    store(panel, [vector((j * tiles + b) * LANES + i * lanes, lanes)], value)

        if self.index is not None:
            with loop("j", shape.steps) as j, opaque("gather"):
                word = T.bind(self.index[number, j])
                kind = shape.index_type
                mask = tirx.const(0xFFFF, kind)
                parts = [word >> tirx.const(16 * i, kind) & mask for i in range(count)]
                step(j, [part.astype("int64") for part in parts])
            return
        with loop("j", shape.k // count) as j, opaque("gather"):
            step(j, [j * count + i for i in range(count)])
        if shape.k % count:
            last = shape.k // count
            step(last, [T.int64(min(last * count + i, shape.k - 1)) for i in range(count)])

    def _rows(self, panel: Any, tiles: int, tile: Any, number: Any, group: Any) -> None:
        """`rows` rows of W, summed in registers for one vector of tokens after the other."""
        shape, lanes = self.shape, self.lanes
        dot = Multiplier(shape.dot, lanes)
        parts = tiles * LANES // lanes
        width = self.width(parts)
        sums = [(r, i) for r in range(shape.rows) for i in range(width)]
        everything = vector(0, lanes)
        chain = shape.dot.chain
        with loop("part", parts // width) as part, opaque("rows"):
            acc = {key: scratch("acc", lanes, "int32") for key in sums}
            for r, i in sums:
                store(acc[r, i], [everything], self._start(number, group, r))

            def run(start: Any, steps: int) -> None:
                places = [((start + s) * parts + part * width) * lanes for s in range(steps)]
                for i in range(width):
                    x = [T.bind(panel[vector(place + i * lanes, lanes)]) for place in places]
                    for r in range(shape.rows):
                        words = [self.weights[number, group, start + s, r] for s in range(steps)]
                        total = dot.add(acc[r, i][everything], x, words)
                        store(acc[r, i], [everything], total)

            whole, rest = divmod(shape.steps, chain)
            if whole:
                # a count that LLVM cannot see: it would unroll, and keep x of all steps (on the stack)
                with loop("chain", tirx.min(T.int64(whole), self.m_tiles * whole)) as j:
                    run(j * chain, chain)
            if rest:
                run(T.int64(whole * chain), rest)
            for r in range(shape.rows):
                self._finish(
                    r, [acc[r, i][everything] for i in range(width)], tile, part * width, number, group
                )

    def width(self, parts: int) -> int:
        """Vectors of tokens at once."""
        return min(self.vectors, parts)

    def _row(self, number: Any, group: Any, r: int) -> Any:
        return number * self.shape.height + group * self.shape.rows + r

    def _start(self, number: Any, group: Any, r: int) -> Any:
        if self.factors is not None:
            return splat(tirx.IntImm("int32", 0), self.lanes)
        row = self._row(number, group, r)
        if r and self._short:
            row = tirx.min(row, T.int64(self.shape.n - 1))
        return splat(self.offset[row], self.lanes)

    @property
    def _short(self) -> bool:
        """A group may have rows that do not exist."""
        return bool(self.shape.height % self.shape.rows or self.shape.n % self.shape.rows)

    def _finish(self, r: int, sums: list[Any], tile: Any, part: Any, number: Any, group: Any) -> None:
        """Scale the sums of a row, apply the epilogue, store."""
        shape, per_tile = self.shape, LANES // self.lanes
        row = self._row(number, group, r)

        def put() -> None:
            for i, value in enumerate(sums):
                one = part + i
                lanes = vector(one % per_tile * self.lanes, self.lanes)
                self._put(value, [tile + one // per_tile, row, lanes])

        limits = []
        if r and shape.height % shape.rows:
            limits.append(group * shape.rows + r < shape.height)
        if r and self._short:
            limits.append(row < shape.n)
        if limits:
            with when(tirx.all(*limits)):
                put()
        else:
            put()

    def _put(self, value: Any, at: list[Any]) -> None:
        lanes, row = self.lanes, at[1]
        factor = splat(self.scale[row], lanes)
        if self.factors is not None:
            value = value - self.zeros[at[0], at[2]] * splat(self.offset[row], lanes)
            factor = factor * self.factors[at[0], at[2]]
        result = value.astype(f"float32x{lanes}") * factor
        store(self.y, at, self.end.apply(result, lambda bias: splat(bias[row], lanes), at))


def _interleaved(columns: list[Any]) -> list[Any]:
    """2 or 4 vectors of 16 bytes as i32 in the order of the tokens: byte i of a lane (u16 i, if there are 2)
    is from vector i. Each shuffle is one instruction on 128 bits."""

    def zipped(left: Any, right: Any, kind: str, lanes: int) -> list[Any]:
        halves: list[Any] = []
        for half in (0, lanes // 2):
            order: Any = [side * lanes + half + lane for lane in range(lanes // 2) for side in (0, 1)]
            halves.append(T.bind(tirx.reinterpret(kind, tirx.Shuffle([left, right], order))))
        return halves

    if len(columns) == 2:
        both = zipped(columns[0], columns[1], "uint8x16", LANES)
        return [tirx.reinterpret("int32x8", value.astype("uint16x16")) for value in both]
    left = zipped(columns[0], columns[1], "uint16x8", LANES)
    right = zipped(columns[2], columns[3], "uint16x8", LANES)
    return [part for pair in zip(left, right, strict=True) for part in zipped(pair[0], pair[1], "int32x4", 8)]
