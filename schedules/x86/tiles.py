"""Between tokens `[M, K]` and tiles `[ceil(M / 16), K, 16]`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from espalier.targets.cpu import Cpu

if TYPE_CHECKING:
    from tvm.tirx import PrimFunc


def to_tiles(features: int, cpu: Cpu, name: str) -> PrimFunc:
    """x f32 [M, K] -> y f32 [ceil(M / 16), K, 16]; the lanes past M are 0."""
    from tvm import tirx
    from tvm.tirx.script.builder import ir as T

    from espalier.schedules.x86.build import either, handle, matched, parallel, prim_func, store
    from espalier.schedules.x86.square import Square, squares

    def emit() -> None:
        x, y = handle("x"), handle("y")
        m: Any = tirx.Var("m", "int64")
        x = matched("X", x, (m, features))
        y = matched("Y", y, ((m + 15) // 16, features, 16))

        def turn(square: Square, row: Any) -> None:
            square.transpose(
                row, lambda i, column: store(y, [square.tile, square.feature + i, square.tokens()], column)
            )

        def ragged(square: Square, i: int) -> Any:
            inside = square.splat(square.row(i) < m)
            value = x[tirx.min(square.row(i), m - 1), square.features()]
            return tirx.Select(inside, value, square.splat(T.float32(0.0)))

        with parallel("tile", (m + 15) // 16) as tile, squares(features, cpu, tile) as square:
            either(
                tile * 16 + 16 <= m,
                lambda: turn(square, lambda i: x[square.row(i), square.features()]),
                lambda: turn(square, lambda i: ragged(square, i)),
            )

    return prim_func(name, emit)


def from_tiles(features: int, cpu: Cpu, name: str) -> PrimFunc:
    """x f32 [ceil(M / 16), K, 16] -> y f32 [M, K]."""
    from tvm import tirx

    from espalier.schedules.x86.build import either, handle, matched, parallel, prim_func, store, when
    from espalier.schedules.x86.square import Square, squares

    def emit() -> None:
        x, y = handle("x"), handle("y")
        m: Any = tirx.Var("m", "int64")
        x = matched("X", x, ((m + 15) // 16, features, 16))
        y = matched("Y", y, (m, features))

        def turn(square: Square, put: Any) -> None:
            square.transpose(lambda i: x[square.tile, square.feature + i, square.tokens()], put)

        def whole(square: Square, i: int, row: Any) -> None:
            store(y, [square.row(i), square.features()], row)

        def ragged(square: Square, i: int, row: Any) -> None:
            with when(square.row(i) < m):
                whole(square, i, row)

        with parallel("tile", (m + 15) // 16) as tile, squares(features, cpu, tile) as square:
            either(
                tile * 16 + 16 <= m,
                lambda: turn(square, lambda i, row: whole(square, i, row)),
                lambda: turn(square, lambda i, row: ragged(square, i, row)),
            )

    return prim_func(name, emit)
