"""Predicted times of the linear kernels: cycles of arithmetic or loads, whichever are more, or memory.

A core starts `fma` vector multiply-adds and two loads a cycle; a vector load counts as two where the vector
unit is half as wide as the vectors (then fma is 1). Every group of rows costs a fixed number of cycles to
start and to put its sums away. Columns of x come from the L2 cache once for every block of rows and chunk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from espalier.schedules.linear import Activation
from espalier.schedules.x86.column_lists import uniform
from espalier.targets.cpu import Cpu, Isa

if TYPE_CHECKING:
    from espalier.schedules.x86.tile_linear import TileLinear
    from espalier.schedules.x86.token_linear import TokenLinear

SHARED_EFFICIENCY: dict[Isa, float] = {"sse4": 0.75, "avx2": 0.93, "avx512": 0.95}
"""Reached share of the bound where rows share a list. AVX2, SSE4: benchmarks/linear_kernels.py on Zen 1.
AVX-512: C kernels on Zen 5 (BP 0.93 of the FMA peak, 128 x 768 x 768)."""
OWN_EFFICIENCY: dict[Isa, float] = {"sse4": 0.75, "avx2": 0.82, "avx512": 0.93}
"""Where every row has its own list (HP 2:4 on Zen 5: 0.69 of the FMA peak, where loads allow 0.76)."""
GROUP_CYCLES = 20
"""To start a group of rows and to drain its sums (BP at 95 %, Zen 1)."""
LINE_CYCLES = 2
"""For 64 bytes from the L2 cache."""
ACTIVATION_OPS: dict[Activation, int] = {
    "none": 0, "relu": 1, "gelu": 13, "gelu_tanh": 16, "tanh": 20, "sigmoid": 20, "silu": 20,
}  # fmt: skip
"""Vector operations of an activation (schedules/x86/vmath.py); a division counts 6."""
RAGGED_PADDING = 1.04
"""Entries of ragged lists with those that pad groups (unstructured, 50 to 95 %)."""


def tile_milliseconds(kernel: TileLinear, m: int, threads: int) -> float:
    """For m tokens."""
    shape, cpu, work = kernel.shape, kernel.cpu, kernel.work
    m_tiles = -(-m // 16)
    whole, rest = divmod(m_tiles, kernel.tiles)
    cycles = whole * _tile_cycles(kernel, kernel.tiles)
    cycles += sum(_tile_cycles(kernel, 1 << bit) for bit in range(rest.bit_length()) if rest >> bit & 1)
    cycles += _end_cycles(cpu, work.epilogue.activation, work.n * m_tiles)
    jobs = shape.blocks * -(-m_tiles // kernel.tiles)
    column_bytes = 0 if shape.lists == "none" else 2
    return _milliseconds(cpu, cycles, _entries(kernel) * (4 + column_bytes), jobs, threads)


def _entries(kernel: TileLinear) -> float:
    """Weights that are multiplied, padding included."""
    shape = kernel.shape
    if shape.ragged:
        return kernel.work.structure.kept_count((shape.n, shape.k)) * RAGGED_PADDING
    if shape.lists == "none":
        return shape.n * shape.k
    return shape.n * shape.chunks * shape.count


def _columns(kernel: TileLinear) -> float:
    """Columns of x that a block of rows reads."""
    shape, structure = kernel.shape, kernel.work.structure
    form = None if shape.ragged else uniform(structure, shape.n, shape.k)
    if form is not None:
        return form.columns
    density = 1 - structure.sparsity((shape.n, shape.k))
    return shape.k if shape.lists == "none" else shape.k * (1 - (1 - density) ** shape.height)


def _tile_cycles(kernel: TileLinear, tiles: int) -> float:
    """For `tiles` tiles of tokens and all of W."""
    shape, cpu, isa = kernel.shape, kernel.cpu, kernel.cpu.isa
    entries = _entries(kernel)
    vectors = tiles * 16 / cpu.lanes
    if shape.lists == "row":
        arithmetic = _bound(cpu, vectors, vectors, 1.25) / OWN_EFFICIENCY[isa]
    else:
        loads = _bound(cpu, shape.rows * vectors, vectors, shape.rows + 1)
        arithmetic = loads / shape.rows / SHARED_EFFICIENCY[isa]
    # fewer tiles leave registers for more groups of rows at once
    at_once = 1 if shape.ragged else kernel.tiles // tiles
    sums = shape.rows * at_once * vectors * (2 if shape.chunks > 1 else 1)
    groups = shape.chunks * -(-shape.n // (shape.rows * at_once))
    lines = shape.blocks * _columns(kernel) * tiles
    return entries * arithmetic + groups * (GROUP_CYCLES + sums) + lines * LINE_CYCLES


def token_milliseconds(kernel: TokenLinear, m: int, threads: int) -> float:
    """For m tokens."""
    shape, cpu, work = kernel.shape, kernel.cpu, kernel.work
    whole, rest = divmod(m, kernel.tokens)
    sizes = {kernel.tokens: whole} | {1 << bit: rest >> bit & 1 for bit in range(rest.bit_length())}
    parts = shape.lanes / cpu.lanes
    cycles = 0.0
    for size, count in sizes.items():
        column = _bound(cpu, size * parts, parts, size + (0 if shape.dense else 1))
        one = kernel.entries * column / SHARED_EFFICIENCY[cpu.isa] + GROUP_CYCLES + size * parts
        cycles += count * shape.blocks * one
    cycles += _end_cycles(cpu, work.epilogue.activation, work.n * m / 16)
    jobs = shape.blocks * -(-m // kernel.tokens)
    return _milliseconds(cpu, cycles, shape.blocks * shape.lanes * kernel.entries * 4, jobs, threads)


def _fma(cpu: Cpu) -> float:
    """Vector multiply-adds a cycle."""
    return cpu.flops_per_cycle / (2 * cpu.lanes)


def _bound(cpu: Cpu, multiplies: float, vector_loads: float, scalar_loads: float) -> float:
    """Cycles for so many vector multiply-adds and loads."""
    return max(multiplies / _fma(cpu), vector_loads / _fma(cpu) + scalar_loads / 2)


def _end_cycles(cpu: Cpu, activation: Activation, tiles: float) -> float:
    """For the activation of so many times 16 results."""
    return tiles * 16 / cpu.lanes * ACTIVATION_OPS[activation] / _fma(cpu)


def _milliseconds(cpu: Cpu, cycles: float, constant_bytes: float, jobs: int, threads: int) -> float:
    """jobs: parts that threads share out."""
    threads = min(threads, cpu.cores)
    share = -(-jobs // threads) / jobs
    return max(cycles * share / (cpu.clock_ghz * 1e6), constant_bytes / threads / (cpu.memory_gbps * 1e6))
