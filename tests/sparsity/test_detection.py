"""Detection from the zeros alone: every structure is recovered, and nothing is found where nothing is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import espalier.sparsity as sp

pytestmark = pytest.mark.unit


def pruned(
    structure: sp.Structure, shape: tuple[int, int], seed: int, dtype: type = np.float32
) -> np.ndarray:
    """Normal weights of which the structure's mask is kept; no kept weight is zero."""
    weight = (np.random.default_rng(seed).standard_normal(shape) * 20).astype(dtype)
    weight[weight == 0] = 1
    return np.where(structure.mask(weight), weight, np.zeros((), dtype))


def check(matrix: np.ndarray) -> sp.Detection:
    """`detect`, with what holds of every detection."""
    found = sp.detect(matrix)
    assert found.unpack().dtype == matrix.dtype
    assert found.unpack().tobytes() == np.ascontiguousarray(matrix).tobytes()
    width = matrix.dtype.itemsize * 8
    count = int(np.count_nonzero(matrix))
    apart = 0 if found.remainder is None else found.remainder.count
    zeros = found.packed.kept_count() + apart - count  # kept weights that are zero
    if found.name not in ("dense", "unstructured"):
        assert zeros * 7 <= count or 0 < (matrix != 0).any(axis=1).mean() < 1
    assert found.bits - zeros * width <= sp.Dense().bits(matrix.shape, width)
    assert found.bits - zeros * width <= sp.Unstructured(count).bits(matrix.shape, width)
    assert (found.remainder is None) == ("remainder" not in found.params())
    index = max(matrix.shape[0] - 1, 0).bit_length() + max(matrix.shape[1] - 1, 0).bit_length()
    assert found.bits == found.packed.bits() + apart * (width + index)
    return found


def packed_bits(structure: sp.Structure, matrix: np.ndarray) -> int:
    return structure.pack(matrix).bits()


@st.composite
def hp_cases(draw: st.DrawFn) -> tuple[sp.HP, tuple[int, int]]:
    g = draw(st.sampled_from([1, 1, 2, 4]))
    block = draw(st.sampled_from([16, 24, 32, 48]))
    v, n = draw(st.sampled_from([(4, 2), (4, 1), (8, 2), (8, 4), (16, 4), (2, 1)]))
    columns = draw(st.integers(96, 200))
    kc = v * draw(st.integers(24 // v, columns * 2 // 3 // v))
    rows = draw(st.integers(2 * block + 1, 5 * block))
    return sp.HP(block, kc, v, n, g), (rows, columns)


@settings(max_examples=40, deadline=None)
@given(hp_cases(), st.integers(0, 99))
def test_hp_is_recovered(case: tuple[sp.HP, tuple[int, int]], seed: int) -> None:
    structure, shape = case
    matrix = pruned(structure, shape, seed)
    found = check(matrix)
    if structure.kc <= structure.v and structure.g > 1 and isinstance(found.structure, sp.BP):
        # one choice of columns for g rows is BP with B = g, though its lists may be longer
        kept = min(structure.n, structure.kc)
        assert (found.structure.B, found.structure.kc) == (structure.g, kept)
        assert found.remainder is None
        return
    assert found.bits <= 1.002 * packed_bits(structure, matrix)  # of two as small, the other may be found
    if found.bits == packed_bits(structure, matrix):  # on a tie BP comes before HP
        assert found.structure == structure or isinstance(found.structure, sp.BP)
    elif found.bits < packed_bits(
        structure, matrix
    ):  # fewer bits: the same blocks, seen in another way, or too small a matrix for HP to pay
        smaller = sp.Unstructured(int(np.count_nonzero(matrix))).bits(shape)
        assert found.bits == smaller or isinstance(
            found.structure, sp.HP | sp.NM | sp.BP | sp.BPPP | sp.Block
        )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("structure", "shape"),
    [
        (sp.HP(32, 192, 4, 2), (384, 768)),
        (sp.HP(32, 192, 4, 1), (384, 768)),
        (sp.HP(32, 192, 4, 2, 4), (384, 768)),
        (sp.HP(32, 192, 4, 1, 4), (384, 768)),  # about a tenth of the kept columns are used by no row
        (sp.HP(32, 80, 16, 4), (1200, 312)),  # 1200 = 37 * 32 + 16: a short last block
        (sp.HP(24, 96, 8, 3), (312, 312)),
        (sp.HP(64, 120, 8, 2, 8), (312, 312)),
        (sp.HP(20, 60, 5, 2, 4), (200, 240)),
        (sp.HP(100, 96, 32, 8), (400, 312)),
        (sp.HP(8, 100, 4, 2, 2), (5, 312)),  # fewer rows than B
        (sp.HP(32, 192, 8, 2, banked=True), (384, 768)),
        (sp.HP(16, 64, 4, 1, banked=True), (130, 312)),  # a part of the kept columns is used by no row
        (sp.HP(32, 96, 8, 4, 4, banked=True), (384, 200)),
        (sp.NM(2, 4), (64, 96)),
        (sp.NM(1, 4), (65, 97)),
        (sp.NM(2, 8, 4), (130, 312)),
        (sp.NM(4, 16), (48, 312)),  # 312 = 19 * 16 + 8: a short last vector
        (sp.NM(3, 8, 3), (50, 100)),
        (sp.BP(32, 192), (384, 768)),
        (sp.BP(16, 31), (100, 61)),
        (sp.BP(32, 96, "rows"), (384, 256)),
        (sp.BP(7, 20, "rows"), (61, 100)),
        (sp.Block(16, 1, 2000), (384, 256)),
        (sp.Block(4, 4, 300), (130, 131)),
        (sp.Block(1, 8, 300), (64, 256)),
        (sp.Block(32, 32, 40), (500, 312)),
        (sp.PP(8, 4, 16), (128, 128)),
        (sp.PP(16, 3, 90), (130, 140)),
        (sp.PP(100, 4, 2500), (312, 600)),
        (sp.BPPP(32, 64, 8, 4, 30), (128, 128)),
        (sp.BPPP(48, 100, 16, 4, 128), (192, 200)),
        (sp.BPPP(32, 300, 100, 4, 3700), (400, 500)),
        (sp.BPPP(32, 64, 8, 4, 30, "rows"), (128, 128)),
        (sp.Unstructured(3000), (100, 120)),
        (sp.Unstructured(30), (100, 120)),
        (sp.Dense(), (30, 40)),
        (sp.Zero(), (30, 40)),
    ],
)
def test_structures_are_recovered(structure: sp.Structure, shape: tuple[int, int], seed: int) -> None:
    matrix = pruned(structure, shape, seed)
    found = check(matrix)
    if isinstance(structure, sp.HP) and shape[0] < structure.B:
        structure = sp.HP(shape[0], structure.kc, structure.v, structure.n, 1)
        assert found.bits <= packed_bits(structure, matrix)
        return
    assert found.structure == structure
    assert found.remainder is None


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("share", [0.002, 0.02, 0.1])
@pytest.mark.parametrize(
    "structure",
    [sp.HP(32, 128, 4, 2), sp.HP(32, 128, 8, 2, 4), sp.NM(2, 4), sp.BP(32, 128), sp.PP(16, 4, 64),
     sp.BPPP(32, 128, 16, 4, 100)],
)  # fmt: skip
def test_kept_weights_may_be_zero(structure: sp.Structure, share: float, seed: int) -> None:
    shape = (384, 256)
    matrix = pruned(structure, shape, seed)
    matrix[np.random.default_rng(seed).random(shape) < share] = 0
    assert check(matrix).structure == structure


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("structure", "shape"),
    [
        (sp.BPPP(32, 60, 8, 4, 14), (256, 120)),
        (sp.BPPP(16, 48, 8, 3, 20), (160, 80)),
    ],
)
def test_kept_columns_that_no_row_uses(structure: sp.BPPP, shape: tuple[int, int], seed: int) -> None:
    for further in range(20):  # the first weight that leaves such a column
        matrix = pruned(structure, shape, 100 * seed + further)
        seen = columns_used(matrix, structure.B)
        if 0 < sum(count < structure.kc for count in seen) < len(seen):
            break
    assert min(seen) < structure.kc
    assert check(matrix).structure == structure


def columns_used(matrix: np.ndarray, block: int) -> list[int]:
    return [int((matrix[row : row + block] != 0).any(axis=0).sum()) for row in range(0, len(matrix), block)]


@pytest.mark.parametrize("seed", range(3))
def test_hp_with_kept_columns_that_no_row_uses(seed: int) -> None:
    """Masks of ours have none; in every third block a column's only group goes to another of its vector."""
    structure = sp.HP(32, 64, 4, 1, 4)
    matrix = pruned(structure, (320, 128), seed)
    for row in range(0, 320, 96):
        block = matrix[row : row + 32]
        columns = np.flatnonzero(block.any(axis=0))
        groups = block[::4, columns] != 0
        left = int(np.flatnonzero(groups.sum(axis=0) == 1)[0])
        group = int(np.flatnonzero(groups[:, left])[0])
        other = left - left % 4 + (left + 1) % 4
        rows = slice(4 * group, 4 * group + 4)
        block[rows, columns[other]] = block[rows, columns[left]]
        block[rows, columns[left]] = 0
    assert [count < 64 for count in columns_used(matrix, 32)] == [i % 3 == 0 for i in range(10)]
    assert check(matrix).structure == structure


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("spread", [0.5, 1.0])
def test_hp_whose_blocks_keep_mostly_the_same_columns(spread: float, seed: int) -> None:
    """As trained layers have: some inputs matter to all outputs, and columns tell little of the height."""
    random = np.random.default_rng(seed)
    weight = random.standard_normal((384, 384)) * np.exp(spread * random.standard_normal(384))
    structure = sp.HP(32, 152, 4, 2, 4)
    matrix = np.where(structure.mask(weight), weight, 0).astype(np.float32)
    assert check(matrix).structure == structure


@pytest.mark.parametrize("structure", [sp.HP(32, 128, 4, 2), sp.BP(32, 128), sp.BPPP(32, 128, 16, 4, 100)])
def test_a_block_may_be_all_zero(structure: sp.Structure) -> None:
    matrix = pruned(structure, (384, 256), 1)
    matrix[64:96] = 0
    assert check(matrix).structure == structure


def test_int8_weights_that_round_to_zero() -> None:
    random = np.random.default_rng(5)
    weight = np.round(random.standard_normal((384, 256)) * 12).astype(np.int8)  # 3 % round to zero
    structure = sp.HP(32, 128, 4, 2)
    mask = structure.mask(random.standard_normal(weight.shape))
    matrix = np.where(mask, weight, np.int8(0))
    assert (matrix[mask] == 0).sum() > 50
    assert check(matrix).structure == structure


STRAYS = [
    sp.HP(32, 64, 4, 2), sp.HP(32, 64, 4, 2, 4), sp.HP(32, 64, 8, 2), sp.NM(1, 4), sp.BP(32, 64),
    sp.BP(32, 64, "rows"), sp.Block(16, 1, 1000), sp.PP(16, 4, 64), sp.BPPP(32, 64, 16, 4, 100),
]  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("structure", STRAYS, ids=lambda s: s.label())
def test_one_stray_weight_is_stored_apart(structure: sp.Structure, seed: int) -> None:
    matrix = pruned(structure, (384, 256), seed)
    free = np.argwhere(matrix == 0)
    row, column = free[np.random.default_rng(seed).integers(len(free))]
    matrix[row, column] = 3.0
    found = check(matrix)
    assert found.structure == structure
    assert found.params() == structure.params() | {"remainder": 1}
    assert found.remainder is not None
    assert (found.remainder.rows[0], found.remainder.columns[0]) == (row, column) or not isinstance(
        structure, sp.BP | sp.Block
    )


def test_a_stray_weight_of_2_4_makes_it_unstructured_where_a_bitmap_is_smaller() -> None:
    matrix = pruned(sp.NM(2, 4), (384, 256), 0)
    matrix[tuple(np.argwhere(matrix == 0)[7])] = 1.0
    assert check(matrix).name == "unstructured"  # the masks of 2:4 take as much as a bitmap
    assert sp.NM(2, 4).bits(matrix.shape) + 32 + 9 + 8 > sp.Unstructured(49153).bits(matrix.shape)


def test_several_strays_are_stored_apart() -> None:
    structure = sp.HP(32, 64, 4, 2)
    matrix = pruned(structure, (384, 256), 0)
    free = np.argwhere(matrix == 0)
    for row, column in free[np.random.default_rng(0).choice(len(free), 9, replace=False)]:
        matrix[row, column] = -1.0
    found = check(matrix)
    assert found.structure == structure
    assert found.params()["remainder"] == 9
    assert found.label() == "HP(B=32,kc=64,v=4,n=2)+9"


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.75, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("shape", [(96, 128), (312, 312), (200, 64)])
def test_random_zeros_have_no_structure(shape: tuple[int, int], sparsity: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    matrix = random.standard_normal(shape).astype(np.float32)
    matrix[random.random(shape) < sparsity] = 0
    assert check(matrix).structure == sp.Unstructured(int(np.count_nonzero(matrix)))


@pytest.mark.parametrize("shape", [(96, 128), (312, 312)])
def test_rows_of_one_count_have_no_structure(shape: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    matrix = np.zeros(shape, np.float32)
    for row in matrix:
        row[random.choice(shape[1], shape[1] // 10, replace=False)] = 1.5
    assert check(matrix).name == "unstructured"


def test_few_zeros_are_dense() -> None:
    matrix = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    matrix[3, 5] = matrix[40, 1] = 0
    assert check(matrix).structure == sp.Dense()


def test_negative_zeros_count_as_pruned_and_survive() -> None:
    weight = np.random.default_rng(0).standard_normal((128, 128)).astype(np.float32)
    structure = sp.HP(32, 64, 4, 2)
    matrix = weight * structure.mask(weight)
    assert np.signbit(matrix[matrix == 0]).any()
    assert check(matrix).structure == structure


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 14), st.integers(1, 14), st.floats(0, 1), st.integers(0, 999),
    st.sampled_from([np.float32, np.float16, np.int8]),
)  # fmt: skip
def test_any_small_matrix_comes_back(rows: int, columns: int, density: float, seed: int, dtype: type) -> None:
    random = np.random.default_rng(seed)
    matrix = (random.standard_normal((rows, columns)) * 9).astype(dtype)
    matrix[random.random(matrix.shape) >= density] = 0
    check(matrix)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 9999), st.sampled_from(["rows", "columns", "blocks", "stripes", "corner"]))
def test_odd_but_regular_zeros_come_back(seed: int, kind: str) -> None:
    random = np.random.default_rng(seed)
    rows, columns = (int(x) for x in random.integers(2, 70, 2))
    matrix = random.standard_normal((rows, columns)).astype(np.float32)
    if kind == "rows":
        matrix[random.random(rows) < 0.5] = 0
    elif kind == "columns":
        matrix[:, random.random(columns) < 0.5] = 0
    elif kind == "blocks":
        matrix[: rows // 2, : columns // 2] = 0
    elif kind == "stripes":
        matrix[np.add.outer(np.arange(rows), np.arange(columns)) % 3 == 0] = 0
    else:
        matrix[1:, 1:] = 0
    check(matrix)


def test_views_and_orders_do_not_matter() -> None:
    structure = sp.HP(16, 32, 4, 2)
    matrix = pruned(structure, (96, 64), 0)
    wide = np.zeros((96, 128), np.float32)
    wide[:, ::2] = matrix
    for same in (np.asfortranarray(matrix), wide[:, ::2], matrix.T.copy().T):
        assert check(same).structure == structure


def test_what_is_no_matrix_is_refused() -> None:
    for wrong in (np.ones(4), np.ones((2, 2, 2)), np.zeros((0, 3)), np.array([["a"]])):
        with pytest.raises(ValueError, match="expected a matrix"):
            sp.detect(wrong)


def test_detection_is_deterministic() -> None:
    matrix = pruned(sp.HP(32, 64, 4, 2), (128, 128), 3)
    first, second = sp.detect(matrix), sp.detect(matrix.copy())
    assert (first.structure, first.bits) == (second.structure, second.bits)
