"""What the kernels over rows of tokens share: how tokens are dealt out, sums kept, and results stored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from tvm import tirx

from espalier.schedules.x86.build import (
    LANES,
    Vectors,
    either,
    long,
    loop,
    opaque,
    parallel,
    scratch,
    splat,
    store,
    vector,
    when,
)
from espalier.schedules.x86.epilogue import End


class RowShape(Protocol):
    """Rows of W in blocks of `height`, which lie on `lanes` lanes; whole: no lane is without a row."""

    @property
    def n(self) -> int: ...
    @property
    def k(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def lanes(self) -> int: ...
    @property
    def blocks(self) -> int: ...
    @property
    def whole(self) -> bool: ...


def over_tokens(m: Any, tokens: int, blocks: int, rows: Callable[[Any], Rows]) -> None:
    """All blocks of rows for all tokens, `tokens` at a time; rows: of a block, by its number."""
    jobs = (m + (tokens - 1)) // tokens
    with parallel("job", jobs * blocks) as job:
        block, first = job // jobs, job % jobs * tokens
        part = rows(block)
        either(
            first + tokens <= m,
            lambda: part.emit(tokens, first),
            lambda: _rest(part, tokens, first, m - first),
        )


def _rest(rows: Rows, tokens: int, first: Any, rest: Any) -> None:
    """The last `rest` < tokens tokens, by the bits of their number."""
    size = 1 << (tokens - 1).bit_length() - 1
    while size:
        with when(rest // size % 2 == 1):
            rows.emit(size, first + rest // (2 * size) * (2 * size))
        size //= 2


@dataclass
class Rows(ABC):
    """One block of rows of W for some tokens. sums: vectors of 16 sums to keep busy with few tokens."""

    shape: RowShape
    end: End
    x: Any
    y: Any
    block: Any
    sums: int

    @abstractmethod
    def span(self) -> tuple[Any, Any]:
        """First step of the block, and the one past its last."""

    @abstractmethod
    def add(self, acc: Vectors, base: int, tokens: int, first: Any, step: Any) -> None:
        """Add a step to the sums acc[base + token * parts + part], for `tokens` tokens from `first` on."""

    def prepare(self, tokens: int, first: Any) -> None:
        """What is done once before the steps."""
        return

    def emit(self, tokens: int, first: Any) -> None:
        """`tokens` tokens from `first` on. Few tokens take several steps at once."""
        parts = self.shape.lanes // LANES
        chains = max(1, self.sums // (tokens * parts))
        size = tokens * parts
        with opaque("rows"):
            self.prepare(tokens, first)
            acc = Vectors("acc", chains * size)
            for i in range(chains * size):
                acc[i] = splat(tirx.const(0, "float32"))
            start, stop = self.span()
            if chains == 1:
                with loop("j", stop, start) as j:
                    self.add(acc, 0, tokens, first, j)
            else:
                turns = (stop - start) // chains
                with loop("j", turns) as j:
                    for chain in range(chains):
                        self.add(acc, chain * size, tokens, first, start + j * chains + chain)
                with loop("j", stop, start + turns * chains) as j:
                    self.add(acc, 0, tokens, first, j)
                for i in range(size):
                    total = acc[i]
                    for chain in range(1, chains):
                        total = total + acc[chain * size + i]
                    acc[i] = total
            self._store(acc, tokens, first)

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
