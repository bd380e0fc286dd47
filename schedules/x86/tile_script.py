"""The text of the kernels over tiles: see tile_linear.py for what they do and how their constants lie."""

from __future__ import annotations

from dataclasses import dataclass

from espalier.schedules.linear import Epilogue
from espalier.schedules.x86 import epilogue as ends
from espalier.schedules.x86.script import block, lanes
from espalier.schedules.x86.tile_shape import TileShape

ZERO = "T.Broadcast(T.float32(0), 16)"


def parameters(shape: TileShape, epilogue: Epilogue) -> list[str]:
    """x, constants, [bias], [residual], y."""
    return [
        "x: T.handle",
        *_constants(shape),
        *ends.parameters(epilogue, shape.n, "residual: T.handle"),
        "y: T.handle",
    ]


def _constants(shape: TileShape) -> list[str]:
    if shape.lists == "empty":
        return []
    if shape.ragged:
        return [f'P: T.Buffer(({shape.pieces + 1},), "int32")', "indices: T.handle", "weights: T.handle"]
    weights = f'W: T.Buffer({shape.weight_shape}, "float32")'
    if shape.lists == "none":
        return [weights]
    return [f'I: T.Buffer({shape.index_shape}, "{shape.index_type}")', weights]


def body(shape: TileShape, epilogue: Epilogue, tiles: int, rows_first: bool) -> list[str]:
    """The statements of the function. rows_first: all tiles of a block of rows before the next block."""
    lines = [
        "m_tiles = T.int64()",
        f'X = T.match_buffer(x, (m_tiles, {shape.k}, 16), "float32")',
        f'Y = T.match_buffer(y, (m_tiles, {shape.n}, 16), "float32")',
    ]
    if epilogue.residual:
        lines.append(f'Residual = T.match_buffer(residual, (m_tiles, {shape.n}, 16), "float32")')
    if shape.ragged:
        entry = f"{shape.rows}" + (", 4" if shape.lists == "row" else "")
        index = f"(entries, {shape.rows})" if shape.lists == "row" else "(entries,)"
        lines += [
            "entries = T.int64()",
            f'I = T.match_buffer(indices, {index}, "{shape.index_type}")',
            f'W = T.match_buffer(weights, (entries, {entry}), "float32")',
        ]
    jobs = f"(m_tiles + {tiles - 1}) // {tiles}"
    if rows_first:
        tile, nb = f"p % ({jobs}) * {tiles}", f"p // ({jobs})"
    else:
        tile, nb = f"p // {shape.blocks} * {tiles}", f"p % {shape.blocks}"
    turn = _Turn(shape, epilogue, nb)
    whole = turn.lines(tiles, 1, tile)
    if tiles > 1:
        rest = []
        size = 1 << (tiles - 1).bit_length() - 1
        while size:
            start = f"{tile} + m_tiles % {tiles} // {2 * size} * {2 * size}"
            groups = 1 if shape.ragged else min(tiles // size, shape.groups)
            rest += block(f"if m_tiles % {tiles} // {size} % 2 == 1", turn.lines(size, groups, start))
            size //= 2
        whole = block(f"if {tile} + {tiles} <= m_tiles", whole) + block("else", rest)
    return lines + block(f"for p in T.parallel({jobs} * {shape.blocks})", whole)


@dataclass(frozen=True)
class _Turn:
    """One block of rows for some tiles. nb: the block."""

    shape: TileShape
    epilogue: Epilogue
    nb: str

    def lines(self, tiles: int, at_once: int, tile: str) -> list[str]:
        """All groups of rows, `at_once` groups in registers together."""
        shape = self.shape
        groups = str(shape.groups)
        if shape.n % shape.height:
            left = f"({shape.n} - {self.nb} * {shape.height} + {shape.rows - 1}) // {shape.rows}"
            groups = f"T.min({groups}, {left})"
        loops = block(
            f"for g in T.serial(T.int64(0), ({groups}) // {at_once})",
            self._rows(tiles, at_once, tile, f"g * {at_once}"),
        )
        if at_once > 1 and (shape.n % shape.height or shape.groups % at_once):
            loops += block(
                f"for g in T.serial(T.int64(0), ({groups}) % {at_once})",
                self._rows(tiles, 1, tile, f"(({groups}) // {at_once} * {at_once} + g)"),
            )
        return block(f"for ch in T.serial(T.int64({shape.chunks}))", loops) if shape.chunks > 1 else loops

    def _rows(self, tiles: int, groups: int, tile: str, group: str) -> list[str]:
        """`groups` groups of rows from `group` on."""
        shape = self.shape
        sums = [(s, r, b) for s in range(groups) for r in range(shape.rows) for b in range(tiles)]
        acc = {key: f"acc[{lanes(i * 16)}]" for i, key in enumerate(sums)}
        inner = [f'acc = T.sblock_alloc_buffer(({len(sums) * 16},), "float32", scope="local")']
        clear = [f"{acc[key]} = {ZERO}" for key in sums]
        if shape.chunks > 1:
            pick_up = self._each_row(
                acc, tiles, groups, tile, group, lambda a, row, t: f"{a} = Y[{t}, {row}, {lanes()}]"
            )
            # rows past N have no place in Y
            pick_up = clear + pick_up if self._short(groups) else pick_up
            inner += block("if ch == 0", clear) + block("else", pick_up)
        else:
            inner += clear
        inner += self._sum(acc, tiles, groups, tile, group)
        finish = self._each_row(acc, tiles, groups, tile, group, self._finish)
        if shape.chunks > 1:
            leave = self._each_row(
                acc, tiles, groups, tile, group, lambda a, row, t: f"Y[{t}, {row}, {lanes()}] = {a}"
            )
            inner += block(f"if ch == {shape.chunks - 1}", finish) + block("else", leave)
        else:
            inner += finish
        return block('with T.sblock("rows")', ["T.reads()", "T.writes()", *inner])

    def _finish(self, sums: str, row: str, tile: str) -> str:
        bias, residual = f"T.Broadcast(Bias[{row}], 16)", f"Residual[{tile}, {row}, {lanes()}]"
        return f"Y[{tile}, {row}, {lanes()}] = {ends.result(self.epilogue, sums, bias, residual)}"

    def _short(self, groups: int) -> bool:
        return bool(self.shape.height % self.shape.rows or self.shape.n % self.shape.rows)

    def _each_row(self, acc, tiles, groups, tile, group, line) -> list[str]:
        shape, lines = self.shape, []
        for s in range(groups):
            for r in range(shape.rows):
                inside = f"({group} + {s}) * {shape.rows} + {r}"
                row = f"{self.nb} * {shape.height} + {inside}"
                here = [line(acc[s, r, b], row, f"{tile} + {b}") for b in range(tiles)]
                limits = []
                if r and shape.height % shape.rows:
                    limits.append(f"{inside} < {shape.height}")
                if r and self._short(groups):
                    limits.append(f"{row} < {shape.n}")
                lines += block(f"if {' and '.join(limits)}", here) if limits else here
        return lines

    def _sum(self, acc, tiles: int, groups: int, tile: str, group: str) -> list[str]:
        """The inner loop."""
        shape = self.shape
        if shape.lists == "empty":
            return []
        chunk = "ch" if shape.chunks > 1 else "0"
        first, last = "T.int64(0)", f"T.int64({shape.steps})"
        if shape.ragged:
            piece = f"({self.nb} * {shape.chunks} + {chunk}) * {shape.groups} + {group}"
            first, last = f'T.Cast("int64", P[{piece}])', f'T.Cast("int64", P[{piece} + 1])'
        elif shape.lists == "none" and shape.k % shape.count:
            last = f"T.min({shape.count}, {shape.k} - {chunk} * {shape.count})"
        lines = []
        for q in range(4 if shape.lists == "row" else 1):
            for s in range(groups):
                place = "j" if shape.ragged else f"{self.nb}, {chunk}, {group} + {s}, j"
                for r in range(shape.rows):
                    column, weight = self._operands(place, chunk, group, s, r, q)
                    for b in range(tiles):
                        a = acc[s, r, b]
                        lines.append(
                            f"{a} = {a} + X[{tile} + {b}, {column}, {lanes()}] * T.Broadcast({weight}, 16)"
                        )
        return block(f"for j in T.serial({first}, {last})", lines)

    def _operands(self, place: str, chunk: str, group: str, s: int, r: int, q: int) -> tuple[str, str]:
        """The column of X and the weight that multiplies it."""
        shape = self.shape
        match shape.lists:
            case "row":
                word = f"T.shift_right(I[{place}, {r}], T.uint64({16 * q}))"
                column = f"T.bitwise_and({word}, T.uint64(65535))"
                return f'T.Cast("int64", {column})', f"W[{place}, {r}, {q}]"
            case "group":
                return f'T.Cast("int64", I[{place}])', f"W[{place}, {r}]"
            case "block":
                return f'T.Cast("int64", I[{self.nb}, {chunk}, j])', f"W[{place}, {r}]"
            case _:
                return f"{chunk} * {shape.count} + j", f"W[{place}, {r}]"
