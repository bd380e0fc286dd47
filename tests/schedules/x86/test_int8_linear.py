"""The int8 kernels against integer arithmetic, bit for bit."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from int8_oracle import Built

from espalier.schedules import Epilogue, LinearWork, Quantization, linear_candidates
from espalier.schedules.x86.int8_dot import CHAIN, SUM_BITS
from espalier.schedules.x86.int8_linear import Int8Linear
from espalier.schedules.x86.int8_pack import chain_sums, integers, quantized, quantized_matrix
from espalier.sparsity import BP, HP, NM, Dense, Structure, Unstructured, Zero
from espalier.targets.cpu import Cpu
from espalier.targets.x86.classes import core_classes

pytestmark = pytest.mark.compile

N, K = 76, 93
"""Neither a multiple of a block, of a vector or of the rows in registers."""
STRUCTURES: dict[str, Structure] = {
    "dense": Dense(),
    "bp": BP(B=32, kc=41),
    "hp": HP(B=32, kc=44, v=4, n=2),
    "hp g=4": HP(B=32, kc=41, v=4, n=2, g=4),
    "nm": NM(2, 4),
    "unstructured": Unstructured(500),
    "zero": Zero(),
}
LEVELS = {"avx2": "znver1", "sse4": "x86-64-v2"}


def weight(structure: Structure, given: bool, shape: tuple[int, int] = (N, K)) -> np.ndarray:
    rng = np.random.default_rng(3)
    # a few rows have outliers, whose sums would overflow
    matrix = rng.standard_normal(shape) * np.where(np.arange(shape[0]) % 7 == 0, 1.0, 0.3)[:, None]
    if given:
        scale = (0.001 * (1 + rng.integers(0, 9, (shape[0], 1)))).astype(np.float32)
        matrix = rng.integers(-255, 256, shape) * scale
    return np.where(structure.mask(matrix.astype(np.float32)), matrix, 0).astype(np.float32)


def kernels(structure: str, isa: str, **more: object) -> list[Int8Linear]:
    cpu: Cpu = core_classes()[LEVELS.get(isa, isa)].cpu
    work = LinearWork(N, K, STRUCTURES[structure], dtype="int8", **more)  # type: ignore[arg-type]
    found = linear_candidates(work, cpu)
    assert all(isinstance(kernel, Int8Linear) for kernel in found)
    return found  # type: ignore[return-value]


@cache
def built(structure: str, isa: str, which: int, scaling: str, exact: bool) -> Built:
    kernel = kernels(structure, isa, scaling=scaling, largest=255 * exact)[which]
    mode = "static" if scaling == "static" else "token"
    quantization = Quantization(mode, 0.25, 77, given=exact)
    return Built(kernel, weight(STRUCTURES[structure], exact), quantization, LEVELS[isa])


CASES = [
    (structure, isa, which, scaling, exact)
    for structure in STRUCTURES
    for isa in LEVELS
    for scaling in ("static", "token")
    for exact in (False, True)
    for which in range(len(kernels(structure, isa, scaling=scaling, largest=255 * exact)))
    # what the level of the CPU changes is told by a few of them
    if isa == "avx2" or (structure in ("dense", "hp g=4") and scaling == "token")
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
@settings(max_examples=6)
@given(count=st.integers(1, 200), seed=st.integers(0, 1000))
def test_bit_for_bit(case: tuple, count: int, seed: int) -> None:
    built(*case).check(count, seed)


@pytest.mark.parametrize("structure", ["dense", "hp g=4"])
def test_epilogue(structure: str) -> None:
    end = Epilogue(bias=True, activation="relu", residual=True)
    for kernel in kernels(structure, "avx2", epilogue=end, scaling="static"):
        one = Built(kernel, weight(STRUCTURES[structure], False), Quantization("static", 0.25, 9), "znver1")
        for count in (1, 16, 37):
            one.check(count)


def test_kinds() -> None:
    assert [kernel.name for kernel in kernels("hp g=4", "avx2", scaling="static")] == [
        "u8-dense-chain-r8v1",
        "u8-block-chain-r8v1",
        "u8-group-chain-r4v1",
    ]
    assert [kernel.name for kernel in kernels("dense", "cascadelake")] == ["u8-dense-vnni-r4v4-token"]
    for largest, forms in ((255, ["pairs"]), (127, ["pairs", "vnni"]), (0, ["vnni"])):
        found = kernels("dense", "cascadelake", largest=largest)
        assert [kernel.shape.dot.form for kernel in found] == forms


@pytest.mark.parametrize("mcpu", ["cascadelake", "alderlake"])
def test_vnni_code(mcpu: str) -> None:
    """Machines with the instruction get it; what it computes cannot be run on every machine."""
    import tvm

    for kernel in kernels("hp g=4", mcpu):
        library = tvm.compile(kernel.func("linear"), target=tvm.target.Target({"kind": "llvm", "mcpu": mcpu}))
        assembly = library.mod.inspect_source("asm")
        assert assembly.count("vpdpbusd") >= kernel.shape.rows
        assert "vpmaddubsw" not in assembly


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), spread=st.sampled_from([0.0, 0.3, 3.0]), width=st.integers(1, 70))
def test_no_sum_of_a_chain_overflows(seed: int, spread: float, width: int) -> None:
    rng = np.random.default_rng(seed)
    values = np.exp(spread * rng.standard_normal((9, width))) * rng.choice([-1, 1], (9, width))
    values[0] = 0
    values = values.astype(np.float32)
    codes, scale = quantized(values, CHAIN)
    assert chain_sums(codes, CHAIN).max() * CHAIN.levels < 1 << SUM_BITS
    error = np.abs(codes * scale[:, None] - values)
    assert (error <= scale[:, None] * 0.5001).all()
    assert not codes[0].any()


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), by_row=st.booleans(), bits=st.integers(2, 9))
def test_integers_are_found(seed: int, by_row: bool, bits: int) -> None:
    rng = np.random.default_rng(seed)
    wanted = rng.integers(-(1 << (bits - 1)) + 1, 1 << (bits - 1), (7, 40))
    scale = rng.uniform(1e-3, 1, (7, 1) if by_row else (1, 1)).astype(np.float32)
    values = wanted.astype(np.float32) * scale
    found = integers(values)
    assert found is not None
    codes, scales = found
    np.testing.assert_allclose(codes * scales[:, None].astype(np.float64), values, rtol=3e-6)
    assert np.abs(codes).max() <= 255


def test_sums_that_could_leave_i32_have_no_kernel() -> None:
    cpu = core_classes()["znver1"].cpu
    assert linear_candidates(LinearWork(8, 150_000, Dense(), dtype="int8"), cpu) == []
    assert linear_candidates(LinearWork(8, 40_000, Dense(), dtype="int8"), cpu)
    assert linear_candidates(LinearWork(8, 40_000, Dense(), dtype="int8", largest=255), cpu) == []


def test_weights_that_are_no_integers() -> None:
    values = np.random.default_rng(0).standard_normal((5, 40)).astype(np.float32)
    assert integers(values) is None
    kernel = kernels("dense", "avx2", largest=255)[0]
    matrix = np.random.default_rng(0).standard_normal((N, K)).astype(np.float32)
    with pytest.raises(ValueError, match="no multiple of integers"):
        kernel.pack(Dense().pack(matrix), Quantization("static", given=True))


@pytest.mark.parametrize("structure", ["dense", "bp", "hp", "hp g=4"])
def test_weights_are_divided_by_the_factors(structure: str) -> None:
    rng = np.random.default_rng(5)
    factors = np.exp2(rng.uniform(-1, 1, K)).astype(np.float32)
    factors[7] = 0  # of a feature that no weight reads
    matrix = weight(STRUCTURES[structure], False)
    for kernel in kernels(structure, "avx2"):
        quantization = Quantization("token", factors=tuple(factors.tolist()))
        codes, scale = quantized_matrix(kernel.shape, STRUCTURES[structure].pack(matrix), quantization)
        want = np.divide(matrix, factors, out=np.zeros_like(matrix), where=factors > 0)
        assert (np.abs(codes * scale[:, None] - want) <= 0.51 * scale[:, None]).all()
