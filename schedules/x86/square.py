"""Transposes in registers of squares of tokens by features, between tokens and tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from espalier.schedules.x86.build import LANES, loop, opaque, splat, vector
from espalier.targets.cpu import Cpu


@dataclass(frozen=True)
class Square:
    """`width` tokens from `token` of tile `tile` on, by `width` features from `feature` on."""

    width: int
    tile: Any
    token: Any
    feature: Any

    def row(self, i: int) -> Any:
        """The number of the i-th token in all tokens."""
        return self.tile * LANES + (self.token + i)

    def tokens(self) -> Any:
        """Places of the tokens in a row of a tile."""
        return self._places(self.token)

    def features(self) -> Any:
        """Places of the features in a row of a token."""
        return self._places(self.feature)

    def splat(self, value: Any) -> Any:
        return splat(value, self.width) if self.width > 1 else value

    def transpose(self, load: Callable[[int], Any], store: Callable[[int, Any], None]) -> None:
        """Load `width` vectors, transpose them, store `width` vectors."""
        vectors = {f"r{i}": T.bind(load(i)) for i in range(self.width)}
        moves, columns = transposition(self.width)
        for result, left, right, lanes in moves:
            order: Any = list(lanes)
            vectors[result] = T.bind(tirx.Shuffle([vectors[left], vectors[right]], order))
        for i, column in enumerate(columns):
            store(i, vectors[column])

    def _places(self, start: Any) -> Any:
        return vector(start, self.width) if self.width > 1 else start


@contextmanager
def squares(features: int, cpu: Cpu, tile: Any) -> Iterator[Square]:
    """All squares of a tile, as wide as a register or as what divides a row shorter than a tile is wide.

    The last square of a longer row starts early, so that it ends with the row: what two squares have in
    common is written twice, the same.
    """
    width = cpu.lanes if features >= LANES else min(cpu.lanes, features & -features)
    with (
        loop("block", -(-features // LANES)) as k,
        opaque("square"),
        loop("a", LANES // width) as a,
        loop("c", min(features, LANES) // width) as c,
    ):
        start = tirx.min(k * LANES, T.int64(features - LANES)) if features >= LANES else T.int64(0)
        yield Square(width, tile, a * width, start + c * width)


def transposition(width: int) -> tuple[list[tuple[str, str, str, Sequence[int]]], list[str]]:
    """Shuffles (result, left, right, lanes) of the rows r0, r1, ... and the names of the columns.

    Each shuffle is one instruction: first unpacks inside 128 bits, then moves of 128 bits.
    """
    moves: list[Any] = []

    def move(pair: Sequence[str], lanes: Sequence[int]) -> str:
        moves.append((f"s{len(moves)}", *pair, lanes))
        return moves[-1][0]

    rows = [f"r{i}" for i in range(width)]
    if width == 1:
        return moves, rows
    if width == 2:
        return moves, [move(rows, [0, 2]), move(rows, [1, 3])]
    quarters = range(0, width, 4)

    def inside(low: Sequence[int]) -> list[int]:
        """The same choice in each 128 bits; 4 and up mean the right operand."""
        return [q + (i if i < 4 else width + i - 4) for q in quarters for i in low]

    columns: list[list[str]] = []
    for r in range(0, width, 4):
        pairs = [(rows[r + i], rows[r + i + 1]) for i in (0, 2)]
        low, high = ([move(pair, inside(lanes)) for pair in pairs] for lanes in ([0, 4, 1, 5], [2, 6, 3, 7]))
        columns.append(
            [move(half, inside(lanes)) for half in (low, high) for lanes in ([0, 1, 4, 5], [2, 3, 6, 7])]
        )
    # columns[g][c] holds, in its q-th 128 bits, column 4 q + c of the rows 4 g to 4 g + 3
    result = [""] * width
    quads = lambda choice: [4 * q + i for q in choice for i in range(4)]  # noqa: E731
    for c in range(4):
        parts = [group[c] for group in columns]
        if width == 4:
            result[c] = parts[0]
        elif width == 8:
            result[c], result[4 + c] = (move(parts, quads(choice)) for choice in ([0, 2], [1, 3]))
        else:
            for half in (0, 1):
                left, right = (
                    move(parts[p : p + 2], quads([2 * half, 2 * half + 1, 4 + 2 * half, 5 + 2 * half]))
                    for p in (0, 2)
                )
                for odd in (0, 1):
                    result[8 * half + 4 * odd + c] = move(
                        (left, right), quads([odd, 2 + odd, 4 + odd, 6 + odd])
                    )
    return moves, result
