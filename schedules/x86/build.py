"""What kernels are written with: TVM's IR builder. Python's loops unroll, the builder's stay loops."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tvm.script.ir_builder import IRBuilder
from tvm.tirx import PrimFunc
from tvm.tirx.script.builder import ir as T

LANES = 16
"""f32 values of a vector: a row of a tile. LLVM splits it into what the CPU has."""


def prim_func(name: str, build: Callable[[], None]) -> PrimFunc:
    """A scheduled function without aliases; `build` declares parameters and emits the body."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(name)
        T.func_attr({"tirx.noalias": True, "op_pattern": 8, "tirx.is_scheduled": True})
        build()
    return builder.get()


def named(name: str, value: Any) -> Any:
    """`value` under a name that the printed function shows."""
    IRBuilder.name(name, value)
    return value


def parameter(name: str, shape: tuple[Any, ...], dtype: str = "float32") -> Any:
    """A buffer of a fixed shape that the caller gives."""
    return T.arg(name, T.buffer(shape, dtype))


def handle(name: str) -> Any:
    """A buffer whose shape has symbols: declare it by `matched` once all parameters are there."""
    return T.arg(name, T.handle())


def number(name: str) -> Any:
    """An int64 that the caller gives."""
    value: Any = T.int64()
    return T.arg(name, value)


def matched(name: str, pointer: Any, shape: tuple[Any, ...], dtype: str = "float32") -> Any:
    return named(name, T.match_buffer(pointer, shape, dtype))


def long(value: int) -> Any:
    return T.int64(value)


def vector(start: Any = 0, lanes: Any = LANES) -> Any:
    """Places from `start` on."""
    step: Any = 1
    return T.Ramp(start, step, lanes)


def splat(value: Any, lanes: Any = LANES) -> Any:
    """One number in every lane."""
    return T.Broadcast(value, lanes)


def store(buffer: Any, place: list[Any], value: Any) -> None:
    T.buffer_store(buffer, value, place)


@contextmanager
def opaque(name: str) -> Iterator[None]:
    """A block that no schedule looks into."""
    with T.sblock(name):
        T.reads()
        T.writes()
        yield


@contextmanager
def when(condition: Any) -> Iterator[None]:
    with T.If(condition), T.Then():
        yield


def either(condition: Any, then: Callable[[], None], otherwise: Callable[[], None]) -> None:
    with T.If(condition):
        with T.Then():
            then()
        with T.Else():
            otherwise()


@contextmanager
def loop(name: str, stop: Any, start: Any = 0) -> Iterator[Any]:
    """A loop that stays one."""
    first = long(start) if isinstance(start, int) else start
    last = long(stop) if isinstance(stop, int) else stop
    with T.serial(first, last) as i:
        yield named(name, i)


@contextmanager
def parallel(name: str, count: Any) -> Iterator[Any]:
    """A loop whose turns the threads share out."""
    with T.parallel(long(0), count) as i:
        yield named(name, i)


def scratch(name: str, size: int, dtype: str = "float32") -> Any:
    """A buffer of the innermost block. Under 1 KB it lies on the stack, where LLVM turns it into registers.

    Scope "local" sounds right and is not: on a CPU TVM allocates it anew at each turn, however small.
    """
    shape: Any = (size,)
    return named(name, T.sblock_alloc_buffer(shape, dtype, scope="global"))


def whole(name: str, value: Any) -> Any:
    """An integer at hand. In memory: about variables TVM's simplifier reasons until it divides by zero."""
    cell = scratch(name, 1, "int64")
    store(cell, [0], value)
    return cell[0]


class Vectors:
    """Vectors of `lanes` f32 that live in registers, as long as every place is a Python number."""

    EACH = 8
    """Vectors in one buffer, so that it stays small enough for the stack."""

    def __init__(self, name: str, count: int, lanes: int = LANES) -> None:
        self.lanes = lanes
        # LLVM would pair narrow neighbours in one register, and take them apart at each use
        self.each = self.EACH if lanes == LANES else 1
        self.buffers = [scratch(name, self.each * lanes) for _ in range(0, count, self.each)]

    def __getitem__(self, i: int) -> Any:
        return self.buffers[i // self.each][self._place(i)]

    def __setitem__(self, i: int, value: Any) -> None:
        store(self.buffers[i // self.each], [self._place(i)], value)

    def _place(self, i: int) -> Any:
        return vector(i % self.each * self.lanes, self.lanes)
