"""What the learned model knows of a kernel: numbers about the layer, the knobs and the CPU.

The model predicts the logarithm of measured over predicted time, so that with nothing learned the prediction
of the kernel itself stands.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

import numpy as np

from espalier.schedules import LinearKernel
from espalier.targets.cpu import Cpu

ABSENT = -1.0
"""Of a knob that a kernel has not."""
KIND, KNOB = "kind ", "knob "
"""What the names of such features begin with."""


def kind(kernel: LinearKernel) -> str:
    """The name of a kernel without its knobs."""
    return re.sub(r"(-[a-z]+\d.*)?$", "", kernel.name)


def names(kernels: Iterable[LinearKernel]) -> tuple[str, ...]:
    """The features that tell these kernels apart."""
    found: set[str] = set()
    for kernel in kernels:
        found |= {KIND + kind(kernel), *(KNOB + knob for knob in kernel.knobs)}
    return (*COMMON, *sorted(found))


def known(kernel: LinearKernel, names: Sequence[str]) -> bool:
    """Whether these features tell this kind of kernel from others."""
    return KIND + kind(kernel) in names


def features(
    kernels: Sequence[LinearKernel],
    predicted: Sequence[float],
    tokens: int,
    threads: int,
    cpu: Cpu,
    names: Sequence[str],
) -> np.ndarray:
    """f32 `[kernels, names]`; predicted: each kernel's own prediction in milliseconds."""
    rows = np.full((len(kernels), len(names)), ABSENT, np.float32)
    for row, kernel, ms in zip(rows, kernels, predicted, strict=True):
        values = _values(kernel, ms, tokens, threads, cpu)
        row[:] = [values.get(name, 0.0 if name.startswith(KIND) else ABSENT) for name in names]
    return rows


def _values(kernel: LinearKernel, predicted: float, tokens: int, threads: int, cpu: Cpu) -> dict[str, float]:
    work = kernel.work
    structure = work.structure
    common = (
        math.log(predicted * 1e9 / (tokens * work.n * work.k)),
        math.log2(work.n),
        math.log2(work.k),
        1 - structure.sparsity((work.n, work.k)),
        getattr(structure, "B", getattr(structure, "bh", 0)),
        getattr(structure, "g", 0),
        math.log2(tokens),
        tokens % 64,
        threads,
        work.epilogue.residual,
        work.epilogue.activation != "none",
        cpu.lanes,
        cpu.registers,
        cpu.flops_per_cycle,
        cpu.l1_bytes / 1024,
        cpu.l2_bytes / 1024,
    )
    return {
        **dict(zip(COMMON, common, strict=True)),
        **{KNOB + name: value for name, value in kernel.knobs.items()},
        KIND + kind(kernel): 1.0,
    }


COMMON = (
    "log_cost", "log_n", "log_k", "density", "block", "share", "log_tokens", "rest", "threads",
    "residual", "activation", "lanes", "registers", "flops_per_cycle", "l1_kib", "l2_kib",
)  # fmt: skip
"""What every kernel has, in the order of _values. log_cost: predicted picoseconds for a token and a weight of
the whole matrix, which unlike the time itself does not grow with the layer."""
