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
BITS = {"ymm": 256, "zmm": 512}
CASES = [(name, layout) for name in STRUCTURES for layout in ("tiles", "tokens")]


def kernel(name: str, layout: Layout, core: str) -> LinearKernel:
    """The kernel made for a structure."""
    work = LinearWork(N, K, STRUCTURES[name], Epilogue(bias=True), layout)
    return linear_candidates(work, core_classes()[core].cpu)[: 2 if name != "dense" else 1][-1]


def inner_loops(assembly: str) -> list[list[str]]:
    """The loops that contain no other."""
    lines = assembly.splitlines()
    labels = {line.split(":")[0]: i for i, line in enumerate(lines) if re.match(r"\.LBB\w+:", line)}
    loops = []
    for i, line in enumerate(lines):
        jump = re.match(r"\s+j\w+\s+(\.LBB\w+)", line)
        start = labels.get(jump[1], i) if jump else i
        body = lines[start + 1 : i]
        if start < i and not any(re.match(r"\.LBB\w+:", inside) for inside in body):
            loops.append(body)
    return loops


def uses(body: list[str], *words: str) -> int:
    """Lines with all of the words."""
    return sum(all(word in line for word in words) for line in body)


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
    loops = inner_loops(built.library.mod.inspect_source("asm"))
    body = max(loops, key=lambda body: uses(body, "vfmadd", "zmm"))
    assert uses(body, "vfmadd", "zmm") >= 16
    assert uses(body, "rsp", "mm") == 0


@pytest.mark.parametrize(("core", "register"), [("znver1", "ymm"), ("znver4", "zmm")])
def test_lanes_select_without_leaving_registers(core: str, register: str) -> None:
    work = LinearWork(N, K, HP(32, 96, 4, 2), layout="tokens")
    chosen = next(one for one in linear_candidates(work, core_classes()[core].cpu) if "select" in one.name)
    built = Built(chosen, pruned(chosen.work.structure, N, K), core)
    loops = [body for body in inner_loops(built.library.mod.inspect_source("asm")) if uses(body, "vpermilps")]
    body = min(loops, key=lambda body: uses(body, "vfmadd"))  # of one token
    weights = uses(body, "vfmadd", register)
    assert weights == uses(body, "vpermilps", register)
    assert weights % (2 * 32 * 32 // BITS[register]) == 0 < weights
    assert uses(body, "vmov", "rsp") == 0
