"""Kernels follow the target, not the machine that compiles: SSE4 runs here, AVX-512 is read as assembly."""

from __future__ import annotations

import re

import pytest
from linear_oracle import Built, pruned

from espalier.schedules import Epilogue, LinearKernel, LinearWork, linear_candidates
from espalier.schedules.linear import Layout
from espalier.sparsity import BP, HP, Dense, Structure, Unstructured
from espalier.targets.x86.classes import core_classes

pytestmark = pytest.mark.compile

N = K = 192
STRUCTURES: dict[str, Structure] = {
    "dense": Dense(),
    "BP": BP(32, 48),
    "HP": HP(32, 96, 4, 2),
    "HP shared": HP(32, 96, 4, 2, 4),
    "unstructured": Unstructured(N * K // 8),
}
CASES = [(name, layout) for name in STRUCTURES for layout in ("tiles", "tokens")]


def kernel(name: str, layout: Layout, core: str) -> LinearKernel:
    """The kernel made for a structure."""
    work = LinearWork(N, K, STRUCTURES[name], Epilogue(bias=True), layout)
    return linear_candidates(work, core_classes()[core].cpu)[: 2 if name != "dense" else 1][-1]


def inner_loop(assembly: str) -> list[str]:
    """The loop with the most multiply-adds among those that contain no other."""
    lines = assembly.splitlines()
    labels = {line.split(":")[0]: i for i, line in enumerate(lines) if re.match(r"\.LBB\w+:", line)}
    loops = []
    for i, line in enumerate(lines):
        jump = re.match(r"\s+j\w+\s+(\.LBB\w+)", line)
        start = labels.get(jump[1], i) if jump else i
        body = lines[start + 1 : i]
        if start < i and not any(re.match(r"\.LBB\w+:", inside) for inside in body):
            loops.append(body)
    return max(loops, key=lambda body: sum("vfmadd" in line and "zmm" in line for line in body))


@pytest.mark.parametrize(("name", "layout"), CASES)
def test_sse4_equals_float64(name: str, layout: Layout) -> None:
    chosen = kernel(name, layout, "nehalem")
    built = Built(chosen, pruned(chosen.work.structure, N, K), "nehalem")
    assert max(built.error(tokens) for tokens in (1, 3, 16, 33)) < 2e-6


@pytest.mark.parametrize("core", ["znver4"])
@pytest.mark.parametrize(("name", "layout"), CASES)
def test_avx512_keeps_sums_in_registers(name: str, layout: Layout, core: str) -> None:
    chosen = kernel(name, layout, core)
    built = Built(chosen, pruned(chosen.work.structure, N, K), core)
    body = inner_loop(built.library.mod.inspect_source("asm"))
    assert sum("vfmadd" in line and "zmm" in line for line in body) >= 16
    assert not any("rsp" in line and "mm" in line for line in body)
