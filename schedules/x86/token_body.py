"""The kernels over rows of tokens: token_linear.py says what they do, token_shape.py how constants lie."""

from __future__ import annotations

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
from espalier.schedules.x86.token_shape import TokenShape


def emit(shape: TokenShape, epilogue: Epilogue, tokens: int, sums: int) -> None:
    """Parameters (x, constants, [bias], [residual], y) and statements of the function.

    tokens: rows of x in registers at once. sums: vectors of sums to keep busy when there are fewer tokens.
    """
    x = handle("x")
    pieces = index = None
    if shape.dense:
        weights = parameter("W", (shape.blocks, shape.k, shape.lanes))
    else:
        pieces = parameter("P", (shape.blocks + 1,), "int32")
        index, weights = handle("indices"), handle("weights")
    end = End.declare(epilogue, shape.n)
    y = handle("y")
    m: Any = tirx.Var("m", "int64")
    x, y = matched("X", x, (m, shape.k)), matched("Y", y, (m, shape.n))
    end.match((m, shape.n))
    if not shape.dense:
        entries = tirx.Var("entries", "int64")
        index = matched("I", index, (entries,), "uint16")
        weights = matched("W", weights, (entries, shape.lanes))
    jobs = (m + (tokens - 1)) // tokens
    with parallel("job", jobs * shape.blocks) as job:
        block, first = job // jobs, job % jobs * tokens
        rows = _Rows(shape, end, x, index, weights, pieces, y, block, sums)
        either(
            first + tokens <= m,
            lambda: rows.emit(tokens, first),
            lambda: _rest(rows, tokens, first, m - first),
        )


def _rest(rows: _Rows, tokens: int, first: Any, rest: Any) -> None:
    """The last `rest` < tokens tokens, by the bits of their number."""
    size = 1 << (tokens - 1).bit_length() - 1
    while size:
        with when(rest // size % 2 == 1):
            rows.emit(size, first + rest // (2 * size) * (2 * size))
        size //= 2


@dataclass(frozen=True)
class _Rows:
    """One block of rows of W for some tokens."""

    shape: TokenShape
    end: End
    x: Any
    index: Any
    weights: Any
    pieces: Any
    y: Any
    block: Any
    sums: int

    def emit(self, tokens: int, first: Any) -> None:
        """`tokens` tokens from `first` on. Few tokens take several columns at once."""
        parts = self.shape.lanes // LANES
        chains = max(1, self.sums // (tokens * parts))
        size = tokens * parts
        with opaque("rows"):
            acc = Vectors("acc", chains * size)
            for i in range(chains * size):
                acc[i] = splat(tirx.const(0, "float32"))
            start, stop = self._span()
            if chains == 1:
                with loop("j", stop, start) as j:
                    self._add(acc, 0, tokens, first, j)
            else:
                turns = (stop - start) // chains
                with loop("j", turns) as j:
                    for chain in range(chains):
                        self._add(acc, chain * size, tokens, first, start + j * chains + chain)
                with loop("j", stop, start + turns * chains) as j:
                    self._add(acc, 0, tokens, first, j)
                for i in range(size):
                    total = acc[i]
                    for chain in range(1, chains):
                        total = total + acc[chain * size + i]
                    acc[i] = total
            self._store(acc, tokens, first)

    def _span(self) -> tuple[Any, Any]:
        if self.shape.dense:
            return long(0), long(self.shape.k)
        return self.pieces[self.block].astype("int64"), self.pieces[self.block + 1].astype("int64")

    def _add(self, acc: Vectors, base: int, tokens: int, first: Any, j: Any) -> None:
        """One column."""
        parts = self.shape.lanes // LANES
        column = j if self.shape.dense else self.index[j].astype("int64")
        at = [self.block, j] if self.shape.dense else [j]
        for t in range(tokens):
            for z in range(parts):
                i = base + t * parts + z
                acc[i] = acc[i] + splat(self.x[first + t, column]) * self.weights[(*at, vector(z * LANES))]

    def _store(self, acc: Vectors, tokens: int, first: Any) -> None:
        for z in range(self.shape.lanes // LANES):
            row = self.block * self.shape.height + z * LANES
            if self.shape.whole:
                self._store_whole(acc, tokens, first, z, row)
                continue
            rows: Any = tirx.min(long(self.shape.height - z * LANES), self.shape.n - row)
            either(
                rows >= LANES,
                partial(self._store_whole, acc, tokens, first, z, row),
                partial(self._store_rows, acc, tokens, first, z, row, rows),
            )

    def _store_whole(self, acc: Vectors, tokens: int, first: Any, z: int, row: Any) -> None:
        parts = self.shape.lanes // LANES
        for t in range(tokens):
            at = [first + t, vector(row)]
            store(self.y, at, self.end.apply(acc[t * parts + z], lambda bias: bias[vector(row)], at))

    def _store_rows(self, acc: Vectors, tokens: int, first: Any, z: int, row: Any, rows: Any) -> None:
        """Lane by lane: a whole vector would run into the next token."""
        parts = self.shape.lanes // LANES
        spare = scratch("spare", tokens * LANES)
        for t in range(tokens):
            store(spare, [vector(t * LANES)], acc[t * parts + z])
        with loop("t", tokens) as t, loop("lane", rows) as lane:
            at = [first + t, row + lane]
            store(self.y, at, self.end.apply(spare[t * LANES + lane], lambda bias: bias[row + lane], at))
