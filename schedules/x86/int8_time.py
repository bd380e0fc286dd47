"""Predicted times of the int8 kernels: cycles of multiplications, of all vector operations, or of loads.

The rounding of the activations is counted to every layer, also where several read the same.

Source of the form of the bound: linear_time.py. The instructions of a step are those of int8_dot.py.
"""

from __future__ import annotations

from espalier.schedules.linear import LinearWork
from espalier.schedules.x86.int8_shape import Int8Shape
from espalier.schedules.x86.linear_time import ACTIVATION_OPS
from espalier.targets.cpu import Cpu

SLOW_MULTIPLIERS = frozenset({"znver1", "znver2", "haswell", "broadwell"})
"""Cores that start half as many integer multiplications a cycle as f32 ones (Agner Fog's tables)."""
EFFICIENCY = 0.85
GROUP_CYCLES = 20
END_OPS = 4
"""Vector operations that scale and store 16 sums, without the activation."""
ROUNDING_OPS = {"token": 12, "static": 6}
"""Vector operations that round a vector of activations (Zen 1, 128 x 384 and 128 x 1536)."""


def milliseconds(work: LinearWork, cpu: Cpu, shape: Int8Shape, tiles: int, m: int, threads: int) -> float:
    """For m tokens, `tiles` tiles of 16 at once."""
    dot = shape.dot
    fma = cpu.flops_per_cycle / (2 * cpu.lanes)
    vectors = 16 / cpu.lanes
    m_tiles = -(-m // 16)
    # multiplications and other operations of a step on one vector
    multiplies, others = {
        "vnni": (1.0, 0.0),
        "chain": (1 + 1 / dot.chain, 1.0),
        "pairs": (1.0, 1.0),
    }[dot.form]
    slow = 0.5 if cpu.mcpu in SLOW_MULTIPLIERS else 1.0
    step = max(
        multiplies * vectors / (fma * slow),
        (multiplies + others) * vectors / (1.5 * fma),
        (vectors / shape.rows + 1 / tiles) / (2 * fma) if fma < 2 else (vectors / shape.rows + 1 / tiles) / 2,
    )
    cycles = shape.all_lists * shape.groups * shape.rows * shape.steps * step / EFFICIENCY
    # shuffles of 16 bytes, two a cycle
    cycles += shape.all_lists * shape.steps * (5 if dot.columns == 2 else 8) / (2 * min(fma, 2))
    cycles += shape.all_lists * shape.groups * GROUP_CYCLES / tiles
    ends = END_OPS + ACTIVATION_OPS[work.epilogue.activation]
    cycles += work.n * vectors * ends / fma
    cycles += work.k * vectors * ROUNDING_OPS[work.scaling] / fma
    jobs = shape.jobs * -(-m_tiles // tiles)
    threads = min(threads, cpu.cores)
    share = -(-jobs // threads) / jobs
    memory = constant_bytes(shape) / threads / (cpu.memory_gbps * 1e6)
    return max(cycles * m_tiles * share / (cpu.clock_ghz * 1e6), memory)


def constant_bytes(shape: Int8Shape) -> int:
    """Of the constants."""
    return shape.all_lists * shape.groups * shape.rows * shape.steps * 4
