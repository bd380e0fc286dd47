"""How the kernel that selects in registers runs: select_linear.py says what it does."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tvm import tirx

from espalier.schedules.linear import Epilogue
from espalier.schedules.x86.build import (
    LANES,
    Vectors,
    handle,
    long,
    loop,
    matched,
    parameter,
    scratch,
    splat,
    store,
    vector,
)
from espalier.schedules.x86.epilogue import End
from espalier.schedules.x86.select_shape import VECTOR, SelectShape
from espalier.schedules.x86.token_rows import Rows, over_tokens

PERMUTE = {8: "llvm.x86.avx.vpermilvar.ps.256", 16: "llvm.x86.avx512.vpermilvar.ps.512"}
"""By lanes of f32: a lane takes one of the four of its 128 bits, by the low 2 bits of its control."""


def emit(shape: SelectShape, epilogue: Epilogue, tokens: int, lanes: int) -> None:
    """Parameters (x, constants, [bias], [residual], y) and statements of the function.

    tokens: rows of x in registers at once. lanes: f32 values of a vector of the CPU.
    """
    x = handle("x")
    columns = parameter("C", (shape.lists, shape.vectors * VECTOR), "uint16")
    select = parameter("S", (shape.blocks, shape.words, shape.lanes), "int32")
    weights = parameter("W", (shape.blocks, shape.vectors, shape.count, shape.lanes))
    end = End.declare(epilogue, shape.n)
    y = handle("y")
    m: Any = tirx.Var("m", "int64")
    x, y = matched("X", x, (m, shape.k)), matched("Y", y, (m, shape.n))
    end.match((m, shape.n))

    def rows(block: Any) -> Rows:
        return _Vectors(shape, end, x, y, block, 0, shape, columns, select, weights, lanes)

    over_tokens(m, tokens, shape.blocks, rows)


@dataclass
class _Vectors(Rows):
    """A step is a word of selections: some vectors of four columns, of which each row takes some."""

    form: SelectShape
    columns: Any
    select: Any
    weights: Any
    lanes: int
    kept: list[Any] = field(default_factory=list)

    def span(self) -> tuple[Any, Any]:
        return long(0), long(self.form.words)

    def prepare(self, tokens: int, first: Any) -> None:
        """The columns of x that the block keeps, side by side."""
        wide = self.form.vectors * VECTOR
        self.kept = [scratch("kept", wide) for _ in range(tokens)]
        which = self.block * self.form.height // self.form.block
        with loop("c", wide) as c:
            column = self.columns[which, c].astype("int64")
            for t in range(tokens):
                store(self.kept[t], [c], self.x[first + t, column])

    def add(self, acc: Vectors, base: int, tokens: int, first: Any, step: Any) -> None:
        form, parts = self.form, self.form.lanes // LANES
        control = scratch("control", form.lanes, "int32")
        for z in range(parts):
            store(control, [vector(z * LANES)], self.select[self.block, step, vector(z * LANES)])
        rest: Any = form.per_word
        if form.vectors % form.per_word:
            rest = tirx.min(long(form.per_word), form.vectors - step * form.per_word)
        with loop("v", rest) as v:
            at = step * form.per_word + v
            x = [self._everywhere(self.kept[t][vector(at * VECTOR, VECTOR)]) for t in range(tokens)]
            for i in range(form.count):
                for z in range(parts):
                    place = vector(z * LANES)
                    weights = self.weights[self.block, at, i, place]
                    for t in range(tokens):
                        total = base + t * parts + z
                        acc[total] = acc[total] + self._permuted(x[t], control[place]) * weights
                    store(control, [place], control[place] >> splat(tirx.const(2, "int32")))

    def _everywhere(self, four: Any) -> Any:
        """Four numbers in every 128 bits of a vector."""
        return _lanes([four] * (self.lanes // VECTOR), 0, self.lanes)

    def _permuted(self, x: Any, control: Any) -> Any:
        parts = []
        for start in range(0, LANES, self.lanes):
            part = control if self.lanes == LANES else _lanes([control], start, self.lanes)
            parts.append(tirx.call_llvm_pure_intrin(f"float32x{self.lanes}", PERMUTE[self.lanes], x, part))
        if len(parts) == 1:
            return parts[0]
        return _lanes(parts, 0, LANES)


def _lanes(vectors: list[Any], first: int, count: int) -> Any:
    """`count` lanes of some vectors side by side, from `first` on."""
    which: list[Any] = [tirx.IntImm("int32", first + lane) for lane in range(count)]
    return tirx.Shuffle(vectors, which)
