"""The kernels over rows of tokens: token_linear.py says what they do, token_shape.py how constants lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx

from espalier.schedules.linear import Epilogue
from espalier.schedules.x86.build import LANES, Vectors, handle, long, matched, parameter, splat, vector
from espalier.schedules.x86.epilogue import End
from espalier.schedules.x86.token_rows import Rows, over_tokens
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

    def rows(block: Any) -> Rows:
        return _Columns(shape, end, x, y, block, sums, index, weights, pieces)

    over_tokens(m, tokens, shape.blocks, rows)


@dataclass
class _Columns(Rows):
    """A step is a column that the block keeps."""

    index: Any
    weights: Any
    pieces: Any

    def span(self) -> tuple[Any, Any]:
        if self.pieces is None:
            return long(0), long(self.shape.k)
        return self.pieces[self.block].astype("int64"), self.pieces[self.block + 1].astype("int64")

    def add(self, acc: Vectors, base: int, tokens: int, first: Any, step: Any) -> None:
        parts = self.shape.lanes // LANES
        column = step if self.index is None else self.index[step].astype("int64")
        at = [self.block, step] if self.index is None else [step]
        for t in range(tokens):
            for z in range(parts):
                i = base + t * parts + z
                acc[i] = acc[i] + splat(self.x[first + t, column]) * self.weights[(*at, vector(z * LANES))]
