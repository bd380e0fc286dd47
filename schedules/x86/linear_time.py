"""Predicted times of the linear kernels: the slowest of arithmetic, loads and memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from espalier.schedules.x86.tile_linear import TileLinear
    from espalier.schedules.x86.token_linear import TokenLinear

EFFICIENCY = {
    "empty": 1.0,
    "none": 0.93,
    "block": 0.92,
    "group": 0.9,
    "row": 0.66,
    "ragged group": 0.85,
    "ragged row": 0.5,
}
"""Share of the FMA peak, design figures for AVX-512."""


def tile_milliseconds(kernel: TileLinear, m: int, threads: int) -> float:
    """For m tokens."""
    shape, cpu = kernel.shape, kernel.cpu
    tiles = -(-m // 16)
    if shape.ragged:
        entries = kernel.work.structure.kept_count((shape.n, shape.k)) * 1.1
    elif shape.lists == "none":
        entries = shape.n * shape.k
    else:
        entries = shape.n * shape.chunks * shape.count
    efficiency = EFFICIENCY[("ragged " if shape.ragged else "") + shape.lists]
    arithmetic = 2 * entries * tiles * 16 / (cpu.peak_gflops * efficiency * 1e6)
    memory = entries * 6 / (cpu.memory_gbps * 1e6)
    return max(arithmetic / min(threads, cpu.cores), memory)


def token_milliseconds(kernel: TokenLinear, m: int, threads: int) -> float:
    """For m tokens."""
    shape, cpu = kernel.shape, kernel.cpu
    entries = shape.blocks * shape.lanes * kernel.entries
    arithmetic = 2 * entries * m / (cpu.peak_gflops * 0.85 * 1e6)
    memory = entries * 4 / (cpu.memory_gbps * 1e6)
    return max(arithmetic / min(threads, cpu.cores), memory)
