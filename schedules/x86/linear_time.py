"""Predicted times of the linear kernels: cycles of arithmetic or loads, whichever are more, or memory.

A core starts `fma` vector multiply-adds and two loads a cycle; a vector load counts as two where the vector
unit is half as wide as the vectors (then fma is 1). Every group of rows costs a fixed number of cycles to
start and to put its sums away. Columns of x come from the L2 cache once for every block of rows and chunk.
"""

from __future__ import annotations

from espalier.schedules.linear import Activation, LinearWork
from espalier.schedules.x86.column_lists import uniform
from espalier.schedules.x86.select_shape import SelectShape
from espalier.schedules.x86.tile_shape import TileShape
from espalier.schedules.x86.token_shape import TokenShape
from espalier.targets.cpu import Cpu, Isa

SHARED_EFFICIENCY: dict[Isa, float] = {"sse4": 0.75, "avx2": 0.93, "avx512": 0.95}
"""Reached share of the bound where rows share a list. AVX2, SSE4: benchmarks/linear_kernels.py on Zen 1.
AVX-512: C kernels on Zen 5 (BP 0.93 of the FMA peak, 128 x 768 x 768)."""
OWN_EFFICIENCY: dict[Isa, float] = {"sse4": 0.75, "avx2": 0.82, "avx512": 0.95}
"""Where every row has its own list (HP 2:4 on Zen 5: 0.69 of the FMA peak, where loads allow 0.76)."""
GROUP_CYCLES = 20
"""To start a group of rows and to drain its sums (BP at 95 %, Zen 1)."""
LINE_CYCLES = 0.5
"""For 64 bytes from the L2 cache: what the core does not hide."""
ACTIVATION_OPS: dict[Activation, int] = {
    "none": 0, "relu": 1, "gelu": 13, "gelu_tanh": 16, "tanh": 20, "sigmoid": 20, "silu": 20,
}  # fmt: skip
"""Vector operations of an activation (schedules/x86/vmath.py); a division counts 6."""
NARROW_TOKENS = 8
"""A last tile of so many tokens or fewer is done with vectors of 4 lanes."""
SELECT_OPS = 8
"""What a vector of weights costs each token where lanes select, in vector operations: measured on Zen 1."""
RAGGED_PADDING = 1.04
"""Entries of ragged lists with those that pad groups (unstructured, 50 to 95 %)."""


def tile_milliseconds(
    work: LinearWork, cpu: Cpu, shape: TileShape, tiles: int, m: int, threads: int
) -> float:
    """For m tokens by a kernel over tiles, `tiles` of them at once."""
    m_tiles = -(-m // 16)
    wide = (m + 15 - NARROW_TOKENS) // 16
    whole, rest = divmod(wide, tiles)
    sizes = [1 << bit for bit in range(rest.bit_length()) if rest >> bit & 1]
    cycles = whole * _tile_cycles(work, cpu, shape, tiles, 1)
    for size in sizes:
        # fewer tiles leave registers for more groups of rows at once
        cycles += _tile_cycles(work, cpu, shape, size, 1 if shape.ragged else tiles // size)
    if m > 16 * wide:
        cycles += _narrow_cycles(work, cpu, shape, -(-(m - 16 * wide) // 4))
    cycles += _end_cycles(cpu, work.epilogue.activation, work.n * m_tiles)
    jobs = shape.blocks * -(-m_tiles // tiles)
    return _milliseconds(cpu, cycles, tile_bytes(work, shape), jobs, threads)


def tile_bytes(work: LinearWork, shape: TileShape) -> float:
    """Of the constants."""
    return _entries(work, shape) * (4 if shape.lists == "none" else 6)


def _entries(work: LinearWork, shape: TileShape) -> float:
    """Weights that are multiplied, padding included."""
    if shape.ragged:
        return work.structure.kept_count((shape.n, shape.k)) * RAGGED_PADDING
    if shape.lists == "none":
        return shape.n * shape.k
    return shape.n * shape.chunks * shape.count


def _columns(work: LinearWork, shape: TileShape) -> float:
    """Columns of x that a block of rows reads."""
    form = None if shape.ragged else uniform(work.structure, shape.n, shape.k)
    if form is not None:
        return form.columns
    if shape.lists == "none":
        return shape.k
    density = 1 - work.structure.sparsity((shape.n, shape.k))
    return shape.k * (1 - (1 - density) ** shape.height)


def _tile_cycles(work: LinearWork, cpu: Cpu, shape: TileShape, tiles: int, at_once: int) -> float:
    """For `tiles` tiles of tokens and all of W, `at_once` groups of rows at once."""
    entries = _entries(work, shape)
    vectors = tiles * 16 / cpu.lanes
    if shape.lists == "row":
        arithmetic = _bound(cpu, vectors, vectors, 1.25) / OWN_EFFICIENCY[cpu.isa]
    else:
        step = _bound(cpu, shape.rows * vectors, vectors, shape.rows + 1)
        arithmetic = step / shape.rows / SHARED_EFFICIENCY[cpu.isa]
    sums = shape.rows * at_once * vectors * (2 if shape.chunks > 1 else 1) / _fma(cpu)
    groups = shape.chunks * -(-shape.n // (shape.rows * at_once))
    lines = shape.blocks * _columns(work, shape) * tiles
    return entries * arithmetic + groups * (GROUP_CYCLES + sums) + lines * LINE_CYCLES


def _narrow_cycles(work: LinearWork, cpu: Cpu, shape: TileShape, vectors: int) -> float:
    """For a last tile of so many vectors of 4 tokens, of which a core multiplies two a cycle."""
    if shape.lists == "row":
        step = (vectors + 1.25) / 2 / OWN_EFFICIENCY[cpu.isa]
    else:
        step = max(vectors, (shape.rows + vectors + 1) / shape.rows) / 2 / SHARED_EFFICIENCY[cpu.isa]
    groups = shape.chunks * -(-shape.n // shape.rows)
    return _entries(work, shape) * step + groups * GROUP_CYCLES / 2


def token_milliseconds(
    work: LinearWork, cpu: Cpu, shape: TokenShape, tokens: int, entries: float, m: int, threads: int
) -> float:
    """For m tokens by a kernel over rows of tokens, `tokens` of them at once.

    entries: columns that an average block of rows keeps.
    """
    whole, rest = divmod(m, tokens)
    sizes = {tokens: whole} | {1 << bit: rest >> bit & 1 for bit in range(rest.bit_length())}
    parts = shape.lanes / cpu.lanes
    cycles = 0.0
    for size, count in sizes.items():
        column = _bound(cpu, size * parts, parts, size + (0 if shape.dense else 1))
        one = entries * column / SHARED_EFFICIENCY[cpu.isa] + GROUP_CYCLES + size * parts
        cycles += count * shape.blocks * one
    cycles += _end_cycles(cpu, work.epilogue.activation, work.n * m / 16)
    jobs = shape.blocks * -(-m // tokens)
    return _milliseconds(cpu, cycles, token_bytes(shape, entries), jobs, threads)


def token_bytes(shape: TokenShape, entries: float) -> float:
    """Of the constants."""
    return shape.blocks * shape.lanes * entries * 4


def select_milliseconds(
    work: LinearWork, cpu: Cpu, shape: SelectShape, tokens: int, m: int, threads: int
) -> float:
    """For m tokens by the kernel that selects in registers, `tokens` of them at once."""
    whole, rest = divmod(m, tokens)
    sizes = {tokens: whole} | {1 << bit: rest >> bit & 1 for bit in range(rest.bit_length())}
    vectors = shape.lanes / cpu.lanes * shape.count * shape.vectors
    cycles = 0.0
    for size, count in sizes.items():
        steps = vectors * SELECT_OPS * size / 2 / _fma(cpu)
        gather = shape.vectors * 4 * size
        cycles += count * shape.blocks * (steps + gather + GROUP_CYCLES)
    cycles += _end_cycles(cpu, work.epilogue.activation, work.n * m / 16)
    jobs = shape.blocks * -(-m // tokens)
    return _milliseconds(cpu, cycles, select_bytes(shape), jobs, threads)


def select_bytes(shape: SelectShape) -> float:
    """Of the constants."""
    return shape.blocks * shape.lanes * shape.vectors * shape.count * 4.25


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
