"""Between tokens `[M, K]` and tiles `[ceil(M / 16), K, 16]`: transposes in registers.

A square of 16 tokens by 16 features is transposed in squares as wide as a vector register. The last square of
a row starts early, so that it ends with the row: what two squares have in common is written twice, the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from espalier.schedules.x86.script import block, prim_func
from espalier.targets.cpu import Cpu

if TYPE_CHECKING:
    from tvm.tirx import PrimFunc


def to_tiles(features: int, cpu: Cpu, name: str) -> PrimFunc:
    """x f32 [M, K] -> y f32 [ceil(M / 16), K, 16]; the lanes past M are 0."""
    square = _Square.of(features, cpu)

    def ragged(i: int) -> str:
        row = f"X[T.min({square.token(i)}, m - 1), {square.features()}]"
        return f"T.Select({square.splat(f'{square.token(i)} < m')}, {row}, {square.splat('T.float32(0)')})"

    def whole(i: int) -> str:
        return f"X[{square.token(i)}, {square.features()}]"

    def store(i: int, value: str) -> list[str]:
        return [f"Y[t, {square.feature(i)}, {square.tokens()}] = {value}"]

    full, rest = square.transpose(whole, store), square.transpose(ragged, store)
    return prim_func(name, ["x: T.handle", "y: T.handle"], _body(features, square, "XY", full, rest), {})


def from_tiles(features: int, cpu: Cpu, name: str) -> PrimFunc:
    """x f32 [ceil(M / 16), K, 16] -> y f32 [M, K]."""
    square = _Square.of(features, cpu)

    def load(i: int) -> str:
        return f"X[t, {square.feature(i)}, {square.tokens()}]"

    def whole(i: int, value: str) -> list[str]:
        return [f"Y[{square.token(i)}, {square.features()}] = {value}"]

    def ragged(i: int, value: str) -> list[str]:
        return block(f"if {square.token(i)} < m", whole(i, value))

    full, rest = square.transpose(load, whole), square.transpose(load, ragged)
    return prim_func(name, ["x: T.handle", "y: T.handle"], _body(features, square, "YX", full, rest), {})


class _Square:
    """`width` tokens from t * 16 + a * width on, by `width` features from k + c * width on."""

    def __init__(self, width: int) -> None:
        self.width = width

    @classmethod
    def of(cls, features: int, cpu: Cpu) -> _Square:
        """As wide as a register, or what divides a row that is too short to start its last square early."""
        return cls(cpu.lanes if features >= 16 else min(cpu.lanes, features & -features))

    def token(self, i: int) -> str:
        return f"(t * 16 + a * {self.width} + {i})"

    def tokens(self) -> str:
        return f"T.Ramp(a * {self.width}, 1, {self.width})" if self.width > 1 else "a"

    def feature(self, i: int) -> str:
        return f"(k + c * {self.width} + {i})"

    def features(self) -> str:
        return f"T.Ramp({self.feature(0)}, 1, {self.width})" if self.width > 1 else self.feature(0)

    def splat(self, value: str) -> str:
        return f"T.Broadcast({value}, {self.width})" if self.width > 1 else value

    def transpose(self, load: Callable[[int], str], store: Callable[[int, str], list[str]]) -> list[str]:
        """Statements that load `width` vectors, transpose them and store `width` vectors."""
        lines = [f"r{i} = {load(i)}" for i in range(self.width)]
        moves, columns = _transposition(self.width)
        lines += [f"{v} = T.Shuffle([{a}, {b}], {list(lanes)})" for v, a, b, lanes in moves]
        return lines + [line for i, column in enumerate(columns) for line in store(i, column)]


def _transposition(width: int) -> tuple[list[tuple[str, str, str, Sequence[int]]], list[str]]:
    """Shuffles (result, left, right, lanes) of the rows r0, r1, ... and the names of the columns.

    Each shuffle is one instruction: first unpacks inside 128 bits, then moves of 128 bits.
    """
    moves = []

    def move(a: str, b: str, lanes: Sequence[int]) -> str:
        moves.append((f"s{len(moves)}", a, b, lanes))
        return moves[-1][0]

    rows = [f"r{i}" for i in range(width)]
    if width == 1:
        return moves, rows
    if width == 2:
        return moves, [move(*rows, [0, 2]), move(*rows, [1, 3])]
    quarters = range(0, width, 4)

    def inside(low: Sequence[int]) -> list[int]:
        """The same choice in each 128 bits; 4 and up mean the right operand."""
        return [q + (i if i < 4 else width + i - 4) for q in quarters for i in low]

    columns: list[list[str]] = []
    for r in range(0, width, 4):
        pairs = [(rows[r + i], rows[r + i + 1]) for i in (0, 2)]
        low, high = ([move(*pair, inside(lanes)) for pair in pairs] for lanes in ([0, 4, 1, 5], [2, 6, 3, 7]))
        columns.append(
            [move(*half, inside(lanes)) for half in (low, high) for lanes in ([0, 1, 4, 5], [2, 3, 6, 7])]
        )
    # columns[g][c] holds, in its q-th 128 bits, column 4 q + c of the rows 4 g to 4 g + 3
    result = [""] * width
    quads = lambda choice: [4 * q + i for q in choice for i in range(4)]  # noqa: E731
    for c in range(4):
        parts = [group[c] for group in columns]
        if width == 4:
            result[c] = parts[0]
        elif width == 8:
            result[c], result[4 + c] = (move(*parts, quads(choice)) for choice in ([0, 2], [1, 3]))
        else:
            for half in (0, 1):
                left, right = (
                    move(*parts[p : p + 2], quads([2 * half, 2 * half + 1, 4 + 2 * half, 5 + 2 * half]))
                    for p in (0, 2)
                )
                for odd in (0, 1):
                    result[8 * half + 4 * odd + c] = move(
                        left, right, quads([odd, 2 + odd, 4 + odd, 6 + odd])
                    )
    return moves, result


def _body(features: int, square: _Square, order: str, full: list[str], ragged: list[str]) -> list[str]:
    """All squares; `order` names the matrix in tokens, then the one in tiles."""
    tokens, tiles = order
    start = f"T.min(kb * 16, {features - 16})" if features >= 16 else "T.int64(0)"
    across = min(features, 16) // square.width

    def squares(lines: list[str]) -> list[str]:
        return block(
            f"for a in T.serial(T.int64({16 // square.width}))",
            block(f"for c in T.serial(T.int64({across}))", lines),
        )

    return [
        "m = T.int64()",
        f'{tokens} = T.match_buffer({tokens.lower()}, (m, {features}), "float32")',
        f'{tiles} = T.match_buffer({tiles.lower()}, ((m + 15) // 16, {features}, 16), "float32")',
        *block(
            "for t in T.parallel((m + 15) // 16)",
            block(
                f"for kb in T.serial(T.int64({(features + 15) // 16}))",
                block(
                    'with T.sblock("square")',
                    [
                        "T.reads()",
                        "T.writes()",
                        f"k = {start}",
                        *block("if t * 16 + 16 <= m", squares(full)),
                        *block("else", squares(ragged)),
                    ],
                ),
            ),
        ),
    ]
