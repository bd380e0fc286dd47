"""Kernels on this machine: compiled, run on made-up data, timed in turn with each other."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from espalier.runtime.threads import set_threads
from espalier.schedules import LinearKernel, LinearWork
from espalier.targets.cpu import Cpu

if TYPE_CHECKING:
    import tvm

    from espalier.sparsity import Packed

SAMPLE_S = 0.002
"""A sample lasts at least this long, so that the clock's own cost does not count."""
ROUNDS = 7
ENTRY = "kernel"


class Machine(Protocol):
    """Where kernels are timed."""

    def load(self, kernel: LinearKernel, tokens: int) -> Callable[[int], float]:
        """Compile and load a kernel; the result runs it so many times and returns seconds for each run."""
        ...


@dataclass(frozen=True)
class Local:
    """This machine. Time is the calling thread's own on one thread, so that other processes disturb less.

    The pool of threads is set here and left to nobody: with more of them than said, the calling thread's time
    is that of a part of the work, and of waiting for the others where a core is taken.
    """

    cpu: Cpu
    threads: int

    def load(self, kernel: LinearKernel, tokens: int) -> Callable[[int], float]:
        import tvm

        set_threads(self.threads)
        call = build(kernel, self.cpu)[ENTRY]
        return timed(call, arguments_of(kernel, tokens, tvm.runtime.tensor), self.threads)


def timed(call: Callable[..., object], arguments: Sequence[Any], threads: int) -> Callable[[int], float]:
    """Calls it so many times and returns seconds for each, by the clock that so many threads want."""
    clock = time.thread_time if threads == 1 else time.perf_counter

    def run(count: int) -> float:
        start = clock()
        for _ in range(count):
            call(*arguments)
        return (clock() - start) / count

    return run


def build(kernel: LinearKernel, cpu: Cpu) -> tvm.runtime.Executable:
    """The compiled kernel under the name ENTRY."""
    import tvm

    target = tvm.target.Target({"kind": "llvm", "mcpu": cpu.mcpu})
    return tvm.compile(kernel.func(ENTRY), target=target)


def arguments_of(
    kernel: LinearKernel, tokens: int, tensor: Callable[[np.ndarray], Any] = lambda array: array
) -> list[Any]:
    """Made-up arguments of a kernel for so many tokens: weights are of the layer's structure."""
    buffers = [parameter.ty for parameter in kernel.func(ENTRY).params if hasattr(parameter.ty, "shape")]
    constants = kernel.pack(packed(kernel.work))
    first = next(
        place
        for place in range(1, len(buffers) - len(constants) + 1)
        if all(
            _matches(buffer, constant) for buffer, constant in zip(buffers[place:], constants, strict=False)
        )
    )
    extent = tokens if kernel.work.layout == "tokens" else -(-tokens // 16)
    rng = np.random.default_rng(0)
    made = [_made_up(buffer, extent, rng) for buffer in buffers]
    arguments: list[Any] = list(map(tensor, [*made[:first], *constants, *made[first + len(constants) :]]))
    if kernel.counts_tokens:
        arguments.insert(-1, tokens)
    return arguments


def _matches(buffer: Any, constant: np.ndarray) -> bool:
    shape = [int(dim) if hasattr(dim, "value") else None for dim in buffer.shape]
    fits = len(shape) == constant.ndim and all(
        dim in (None, size) for dim, size in zip(shape, constant.shape, strict=True)
    )
    return fits and str(buffer.dtype) == constant.dtype.name


def _made_up(buffer: Any, extent: int, rng: np.random.Generator) -> np.ndarray:
    shape = [int(dim) if hasattr(dim, "value") else extent for dim in buffer.shape]
    dtype = np.dtype(str(buffer.dtype))
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    return rng.integers(0, 2, shape).astype(dtype)


def packed(work: LinearWork) -> Packed:
    """A random weight of the structure of `work`."""
    return _packed(work.structure, work.n, work.k)


@lru_cache(maxsize=8)
def _packed(structure: Any, n: int, k: int) -> Packed:
    weight = np.random.default_rng(0).standard_normal((n, k)).astype(np.float32)
    return structure.pack(np.where(structure.mask(weight), weight, np.float32(0)))


def race(runs: Mapping[str, Callable[[int], float]], *, rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Milliseconds of each contestant's samples, one a round, the first of a round changing."""
    names = list(runs)
    counts = {}
    for name in names:
        runs[name](1)
        counts[name] = max(1, round(SAMPLE_S / max(runs[name](1), 1e-7)))
    samples: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            runs[name](1)  # what ran before has filled the caches with its own data
            samples[name].append(runs[name](counts[name]) * 1e3)
    return samples


def measure(
    machine: Machine,
    kernels: Sequence[LinearKernel],
    reference: LinearKernel,
    tokens: int,
    *,
    rounds: int | None = None,
) -> dict[LinearKernel, float]:
    """Milliseconds of each kernel: the least of its samples, taken in turn with a reference kernel's."""
    contestants = {kernel.name: kernel for kernel in (reference, *kernels)}
    runs = {name: machine.load(kernel, tokens) for name, kernel in contestants.items()}
    samples = race(runs, rounds=rounds or ROUNDS)
    return {kernel: min(samples[name]) for name, kernel in contestants.items()}
