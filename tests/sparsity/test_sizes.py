"""The size table, against scipy where scipy has the format, and against the formulas where it has none."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

import espalier.sparsity as sp

pytestmark = pytest.mark.unit


def array_bytes(*arrays: np.ndarray) -> int:
    return sum(array.nbytes for array in arrays)


@st.composite
def matrices(draw: st.DrawFn) -> np.ndarray:
    random = np.random.default_rng(draw(st.integers(0, 9999)))
    shape = draw(st.integers(1, 60)), draw(st.integers(1, 60))
    dtype = draw(st.sampled_from([np.float32, np.int8]))
    matrix = (random.standard_normal(shape) * 20).astype(dtype)
    matrix[random.random(shape) < draw(st.floats(0, 1))] = 0
    return matrix


def bsr_bytes(matrix: np.ndarray, bh: int, bw: int) -> int:
    rows, columns = (math.ceil(size / side) * side for size, side in zip(matrix.shape, (bh, bw), strict=True))
    padded = np.zeros((rows, columns), matrix.dtype)
    padded[: matrix.shape[0], : matrix.shape[1]] = matrix
    made = sparse.bsr_matrix(padded, blocksize=(bh, bw))
    made.eliminate_zeros()
    return array_bytes(made.data, made.indices.astype(np.int32), made.indptr.astype(np.int32))


@given(matrices())
def test_sizes_are_those_of_scipy(matrix: np.ndarray) -> None:
    sizes = sp.sizes(matrix, sp.Dense())
    coo, csr, csc = sparse.coo_matrix(matrix), sparse.csr_matrix(matrix), sparse.csc_matrix(matrix)
    assert sizes["dense"] == matrix.nbytes
    assert sizes["coo"] == array_bytes(coo.data, coo.row.astype(np.int32), coo.col.astype(np.int32))
    assert sizes["csr"] == array_bytes(csr.data, csr.indices, csr.indptr)
    assert sizes["csc"] == array_bytes(csc.data, csc.indices, csc.indptr)
    assert sizes["bcsr"] == min(bsr_bytes(matrix, *block) for block in sp.BCSR_BLOCKS)
    assert sizes["bitmap"] == math.ceil(matrix.size / 8) + csr.nnz * matrix.itemsize
    assert sizes["hp"] is None


@given(matrices())
def test_exact_indices_are_never_wider(matrix: np.ndarray) -> None:
    exact, plain = sp.sizes(matrix, sp.Dense(), index_width="exact"), sp.sizes(matrix, sp.Dense())
    rows, columns = matrix.shape
    count, width = int(np.count_nonzero(matrix)), matrix.itemsize * 8
    index = {size: math.ceil(math.log2(size)) for size in (rows, columns, count + 1)}
    assert exact["coo"] == math.ceil(count * (width + index[rows] + index[columns]) / 8)
    assert exact["csr"] == math.ceil((count * (width + index[columns]) + (rows + 1) * index[count + 1]) / 8)
    assert all((exact[name] or 0) <= (plain[name] or 0) for name in plain)


@given(matrices())
def test_packed_rows_are_scipys_arrays(matrix: np.ndarray) -> None:
    packed = sp.Unstructured(int(np.count_nonzero(matrix))).pack(matrix)
    assert isinstance(packed, sp.PackedUnstructured)
    csr = sparse.csr_matrix(matrix)
    np.testing.assert_array_equal(packed.pointers, csr.indptr)
    np.testing.assert_array_equal(packed.columns, csr.indices)
    np.testing.assert_array_equal(packed.values, csr.data)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 5), st.integers(1, 5), st.integers(0, 99))
def test_packed_blocks_are_scipys_arrays(tall: int, wide: int, bh: int, bw: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    matrix = random.standard_normal((tall * bh, wide * bw)).astype(np.float32)
    structure = sp.Block(bh, bw, int(random.integers(0, tall * wide + 1)))
    matrix[~structure.mask(matrix)] = 0
    packed = structure.pack(matrix)
    assert isinstance(packed, sp.PackedBlock)
    bsr = sparse.bsr_matrix(matrix, blocksize=(bh, bw))
    bsr.sort_indices()
    np.testing.assert_array_equal(packed.pointers, bsr.indptr)
    np.testing.assert_array_equal(packed.columns, bsr.indices)
    np.testing.assert_array_equal(packed.values, bsr.data)


def test_hp_bytes() -> None:
    matrix = np.zeros((3072, 768), np.float32)
    hp = sp.HP(32, 192, 4, 2)
    bits = 96 * 192 * 10 + 3072 * 48 * 2 * 32 + 3072 * 48 * 4
    assert sp.sizes(matrix, hp)["hp"] == bits // 8
    assert sp.sizes(matrix, hp, apart=3)["hp"] == math.ceil((bits + 3 * (12 + 10 + 32)) / 8)
    assert sp.sizes(matrix.astype(np.int8), sp.NM(1, 4))["hp"] == 3072 * 192 * (8 + 2) // 8
    # BP is HP with n = v; a vector of one column needs no selection
    bp = sp.BP(32, 192)
    assert sp.sizes(matrix, bp)["hp"] == sp.sizes(matrix, sp.HP(32, 192, 1, 1))["hp"]
    for other in (sp.BP(32, 192, "rows"), sp.PP(16, 4, 64), sp.Block(16, 1, 10), sp.Zero()):
        assert sp.sizes(matrix, other)["hp"] is None


def test_hp_is_smaller_than_the_formats_with_an_index_a_weight() -> None:
    random = np.random.default_rng(0)
    weight = random.standard_normal((768, 768)).astype(np.float32)
    structure = sp.HP(32, 192, 4, 2)
    sizes = sp.sizes(np.where(structure.mask(weight), weight, 0), structure)
    hp = sizes["hp"]
    assert hp is not None
    assert all(hp < (sizes[name] or 0) for name in ("dense", "coo", "csr", "csc", "bcsr", "bitmap"))
