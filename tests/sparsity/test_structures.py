"""Masks, packing, sizes and bytes of every structure, over shapes that do not divide."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import espalier.sparsity as sp

pytestmark = pytest.mark.unit

DTYPES = (np.float32, np.float16, np.int8)


def weights(shape: tuple[int, int], dtype: type, seed: int) -> np.ndarray:
    """Normal weights; some values repeat, some are denormal, some are negative zeros, a few are zero."""
    random = np.random.default_rng(seed)
    weight = (random.standard_normal(shape) * 30).astype(dtype)
    if dtype is not np.int8:
        flat = weight.reshape(-1)
        flat[random.integers(0, flat.size, 1 + flat.size // 20)] = np.finfo(dtype).smallest_subnormal
        flat[random.integers(0, flat.size, 1 + flat.size // 20)] = -0.0
    return weight


@st.composite
def cases(draw: st.DrawFn) -> tuple[tuple[int, int], sp.Structure]:
    rows, columns = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    kind = draw(st.sampled_from(["dense", "zero", "nm", "hp", "banked", "bp", "pp", "bppp", "block", "any"]))
    g = draw(st.integers(1, 4))
    block = g * draw(st.integers(1, 12))
    v = draw(st.integers(1, 9))
    n = draw(st.integers(1, v))
    axis = draw(st.sampled_from(["columns", "rows"]))
    width = columns if axis == "columns" else rows
    p = draw(st.integers(1, 9))
    m = draw(st.integers(1, 4))
    kept = draw(st.integers(1, p * p))
    if kind == "banked":
        v = min(v, columns)
        n = min(n, v)
        kc = v * draw(st.integers(1, columns // v))
        return (rows, columns), sp.HP(block, kc, v, n, g, banked=True)
    if kind == "block":
        bh, bw = draw(st.integers(1, 9)), draw(st.integers(1, 9))
        total = math.ceil(rows / bh) * math.ceil(columns / bw)
        return (rows, columns), sp.Block(bh, bw, draw(st.integers(0, total)))
    kc = draw(st.integers(1, width))
    return (rows, columns), {
        "dense": sp.Dense(),
        "zero": sp.Zero(),
        "nm": sp.NM(n, v, g),
        "hp": sp.HP(block, draw(st.integers(1, columns)), v, n, g),
        "bp": sp.BP(block, kc, axis),
        "pp": sp.PP(p, m, kept),
        "bppp": sp.BPPP(block, kc, p, m, kept, axis),
        "any": sp.Unstructured(draw(st.integers(0, rows * columns))),
    }[kind]


def bits_of(array: np.ndarray) -> bytes:
    return np.ascontiguousarray(array).tobytes()


EXACT = (sp.Dense, sp.Zero, sp.NM, sp.BP, sp.Unstructured)


@settings(max_examples=400, deadline=None)
@given(cases(), st.sampled_from(DTYPES), st.integers(0, 9))
def test_mask_is_of_the_structure(case: tuple[tuple[int, int], sp.Structure], dtype: type, seed: int) -> None:
    shape, structure = case
    mask = structure.mask(weights(shape, dtype, seed))
    assert mask.dtype == bool and mask.shape == shape
    kept = structure.kept_count(shape)
    if isinstance(structure, sp.PP | sp.BPPP | sp.Block):
        assert mask.sum() <= kept
    else:
        assert mask.sum() == kept
        assert structure.sparsity(shape) == pytest.approx(1 - mask.mean())


@settings(max_examples=400, deadline=None)
@given(cases(), st.sampled_from(DTYPES), st.integers(0, 9))
def test_what_is_masked_packs_and_unpacks_bit_for_bit(
    case: tuple[tuple[int, int], sp.Structure], dtype: type, seed: int
) -> None:
    shape, structure = case
    if isinstance(structure, sp.BPPP | sp.HP):  # a kept column that no row uses: see test_hidden_columns
        weight = np.abs(weights(shape, dtype, seed)) + np.ones((), dtype)
        mask = structure.mask(weight)
        if isinstance(structure, sp.BPPP) or structure.banked:
            return
    else:
        weight = weights(shape, dtype, seed)
        mask = structure.mask(weight)
    matrix = np.where(mask, weight, np.zeros((), dtype))
    assert structure.fits(matrix)
    packed = structure.pack(matrix)
    assert bits_of(packed.unpack()) == bits_of(matrix)
    written = sp.payload(packed)
    assert len(written) == math.ceil(packed.bits() / 8)
    if isinstance(structure, EXACT):
        assert packed.bits() == structure.bits(shape, matrix.dtype.itemsize * 8)
    back = sp.from_bytes(sp.to_bytes(packed))
    assert back.structure == structure
    assert bits_of(back.unpack()) == bits_of(matrix)


@settings(max_examples=100, deadline=None)
@given(cases(), st.integers(0, 9))
def test_negative_zeros_of_a_masked_product_survive(
    case: tuple[tuple[int, int], sp.Structure], seed: int
) -> None:
    shape, structure = case
    if isinstance(structure, sp.HP | sp.BPPP):
        return
    weight = weights(shape, np.float32, seed)
    matrix = weight * structure.mask(weight)  # negative weights leave -0.0 behind
    packed = structure.pack(matrix)
    assert bits_of(packed.unpack()) == bits_of(matrix)
    assert bits_of(sp.from_bytes(sp.to_bytes(packed)).unpack()) == bits_of(matrix)


def test_hp_mask_by_hand() -> None:
    weight = np.array([[3, 1, 5, 2, 4, 0], [1, 0, 2, 4, 6, 0], [0, 9, 1, 1, 1, 8.0]])
    mask = sp.HP(B=2, kc=4, v=2, n=1).mask(weight)
    # block 0 keeps columns 0, 2, 3, 4 (norms 3.2, 1, 5.4, 4.5, 7.2, 0); vectors (0, 2) and (3, 4)
    # where both rows would choose 2 and 4; 0 and 3 must be used, row 1 loses 4 - 1 for 0, row 0 16 - 4 for 3
    # block 1 keeps columns 1, 5 and of the equal 2, 3, 4 the first two; vectors (1, 2) and (3, 5)
    assert mask.astype(int).tolist() == [[0, 0, 1, 1, 0, 0], [1, 0, 0, 0, 1, 0], [0, 1, 0, 0, 0, 1]]


@settings(max_examples=200, deadline=None)
@given(
    st.tuples(st.integers(1, 40), st.integers(2, 40)),
    st.integers(1, 4),
    st.integers(1, 8),
    st.integers(1, 6),
    st.integers(0, 9),
    st.data(),
)
def test_every_column_that_level_1_keeps_is_used(
    shape: tuple[int, int], g: int, groups: int, v: int, seed: int, data: st.DataObject
) -> None:
    """Columns of very unequal weight, so that level 2 alone would leave many out."""
    n, kc = data.draw(st.integers(1, v)), data.draw(st.integers(1, shape[1] - 1))
    random = np.random.default_rng(seed)
    weight = random.standard_normal(shape) * np.exp(2 * random.standard_normal(shape[1]))
    structure = sp.HP(g * groups, kc, v, n, g)
    mask = structure.mask(weight)
    for start in range(0, shape[0], structure.B):
        block = mask[start : start + structure.B]
        if math.ceil(len(block) / g) * n < v:
            continue
        assert block.any(axis=0).sum() == kc
        kept = weight[start : start + structure.B]
        energy = (kept**2).sum(axis=0)
        assert energy[block.any(axis=0)].min() >= energy[~block.any(axis=0)].max()
    assert mask.sum() == structure.kept_count(shape)


def test_an_unused_column_takes_the_place_that_costs_least() -> None:
    weight = np.array([[5.0, 1, 9, 0], [3, 2, 9, 0], [6, 0.5, 9, 0], [7, 1, 9, 0]])
    mask = sp.HP(B=4, kc=3, v=3, n=2).mask(weight)  # column 1 would be unused; row 1 loses 9 - 4 for it
    assert mask.astype(int).tolist() == [[1, 0, 1, 0], [0, 1, 1, 0], [1, 0, 1, 0], [1, 0, 1, 0]]


def test_unstructured_takes_the_first_of_equal_weights() -> None:
    weight = np.array([[1.0, -2, 1], [2, 1, 1]])
    for kept, expected in (
        (0, [[0, 0, 0], [0, 0, 0]]), (3, [[1, 1, 0], [1, 0, 0]]), (4, [[1, 1, 1], [1, 0, 0]]),
        (6, [[1, 1, 1], [1, 1, 1]]), (9, [[1, 1, 1], [1, 1, 1]]),
    ):  # fmt: skip
        assert sp.Unstructured(kept).mask(weight).astype(int).tolist() == expected


def test_group_shares_the_choice_by_norm() -> None:
    weight = np.array([[3.0, 1, 0, 0], [0, 4, 1, 0], [2, 1, 0, 0]])
    mask = sp.NM(n=1, v=2, g=2).mask(weight)
    assert mask.astype(int).tolist() == [[0, 1, 1, 0], [0, 1, 1, 0], [1, 0, 1, 0]]


@pytest.mark.parametrize("banks", [2, 4, 8])
def test_banked_mask_keeps_as_many_columns_of_each_bank_and_n_distinct_banks(banks: int) -> None:
    structure = sp.HP(B=8, kc=3 * banks, v=banks, n=max(banks // 4, 1), banked=True)
    weight = np.random.default_rng(0).standard_normal((19, 37))
    mask = structure.mask(weight)
    columns = structure.pack(np.where(mask, weight, 0)).columns
    assert (columns.reshape(3, 3, banks) % banks == np.arange(banks)).all()
    for row, line in enumerate(mask):
        for vector in columns[row // 8].reshape(3, banks):
            assert line[vector].sum() == structure.n
            assert (np.diff(vector[vector % banks == 0]) > 0).all()


def test_block_mask_takes_the_largest_root_mean_square() -> None:
    weight = np.array([[1.0, 1, 3], [1, 1, 0]])
    assert sp.Block(2, 2, 1).mask(weight).astype(int).tolist() == [[0, 0, 1], [0, 0, 1]]


def test_pattern_refinement_never_loses_energy() -> None:
    weight = np.random.default_rng(3).standard_normal((64, 48))
    first = sp.importance_patterns(weight, 8, 4, 16)
    better = sp.refine_patterns(weight, first)
    structure = sp.PP(8, 4, 16)

    def lost(patterns: np.ndarray) -> float:
        return float((weight[~structure.mask(weight, patterns=patterns)] ** 2).sum())

    assert lost(better) < lost(first)
    assert (better.sum(axis=(1, 2)) == 16).all()


def test_every_block_takes_the_pattern_that_loses_least() -> None:
    weight = np.random.default_rng(4).standard_normal((16, 24))
    patterns = sp.importance_patterns(weight, 8, 3, 20)
    choice = sp.assign_patterns(weight, patterns)
    for row in range(2):
        for column in range(3):
            block = weight[row * 8 : row * 8 + 8, column * 8 : column * 8 + 8]
            kept = [(block[pattern] ** 2).sum() for pattern in patterns]
            assert choice[row, column] == int(np.argmax(kept))


def test_bits_are_the_formulas() -> None:
    # R·kc·ceil(log2 K) + N·(kc/v)·n·w + ceil(N/g)·(kc/v)·min(v, n·ceil(log2 v))
    assert sp.HP(32, 192, 4, 2).bits((3072, 768)) == 96 * 192 * 10 + 3072 * 48 * 2 * 32 + 3072 * 48 * 4
    assert sp.HP(32, 192, 4, 1, 4).bits((3072, 768), 8) == 96 * 192 * 10 + 3072 * 48 * 8 + 768 * 48 * 2
    assert sp.HP(32, 80, 16, 4).bits((1200, 312)) == 38 * 80 * 9 + 1200 * 5 * 4 * 32 + 1200 * 5 * 16
    assert sp.BP(32, 192).bits((3072, 768)) == 96 * 192 * 10 + 3072 * 192 * 32
    assert sp.BP(32, 1536, "rows").bits((3072, 768)) == 24 * 1536 * 12 + 768 * 1536 * 32
    assert sp.NM(2, 4).bits((3072, 768)) == 3072 * 192 * (2 * 32 + 4)
    # a short last vector: 312 = 19 * 16 + 8 keeps min(12, 8) of 8
    assert sp.NM(12, 16).bits((7, 312)) == 7 * (19 * (12 * 32 + 16) + 8 * 32 + 8)
    assert sp.PP(16, 4, 64).bits((3072, 768)) == 4 * 256 + 192 * 48 * 2 + 192 * 48 * 64 * 32
    assert sp.Block(16, 1, 100).bits((3072, 768)) == 100 * 16 * 32 + 100 * 10 + 193 * 7
    assert sp.Unstructured(1000).bits((100, 100)) == min(1000 * 39 + 101 * 10, 1000 * 32 + 10000)


def test_labels_and_parameters() -> None:
    assert sp.HP(32, 192, 4, 2).label() == "HP(B=32,kc=192,v=4,n=2)"
    assert sp.HP(32, 192, 4, 2, 4).label() == "HP(B=32,kc=192,v=4,n=2,g=4)"
    assert sp.HP(32, 192, 8, 2, banked=True).label() == "HP(B=32,kc=192,v=8,n=2,banked)"
    assert sp.HP(32, 192, 4, 2).params() == {"B": 32, "kc": 192, "v": 4, "n": 2, "g": 1}
    assert sp.HP(32, 192, 8, 2, banked=True).params()["banked"] is True
    assert (sp.NM(2, 4).label(), sp.NM(2, 4).params()) == ("2:4", {"n": 2, "v": 4})
    assert (sp.NM(2, 4, 4).label(), sp.NM(2, 4, 4).name) == ("2:4(g=4)", "2:4")
    assert sp.BP(32, 192).label() == "BP(B=32,kc=192)"
    assert sp.BP(32, 192, "rows").label() == "BP(B=32,kc=192,axis=rows)"
    assert sp.BP(32, 192).params() == {"B": 32, "kc": 192, "axis": "columns"}
    assert sp.PP(100, 4, 2500).label() == "PP(p=100,m=4,kept=2500)"
    both = sp.BPPP(32, 192, 100, 4, 2500)
    assert both.label() == "BP+PP(B=32,kc=192,p=100,m=4,kept=2500)"
    assert both.params() == {"B": 32, "kc": 192, "axis": "columns", "p": 100, "m": 4, "kept": 2500}
    assert (sp.Block(16, 1, 5).label(), sp.Block(16, 1, 5).params()) == ("block(16x1)", {"bh": 16, "bw": 1})
    assert [s.label() for s in (sp.Dense(), sp.Zero(), sp.Unstructured(3))] == [
        "dense",
        "zero",
        "unstructured",
    ]
    assert sp.Unstructured(3).params() == {}


@pytest.mark.parametrize("shape", [(768, 384), (312, 1200), (312, 312)])
@pytest.mark.parametrize("sparsity", [0.5, 0.75, 0.8, 0.9, 0.95])
def test_structures_for_a_wanted_sparsity(shape: tuple[int, int], sparsity: float) -> None:
    area = shape[0] * shape[1]
    for structure, step in [
        (sp.HP.for_sparsity(shape, sparsity), 2 / shape[1]),
        (sp.HP.for_sparsity(shape, sparsity, v=8, n=4, g=4), 4 / shape[1]),
        (sp.HP.for_sparsity(shape, sparsity, v=8, n=4, banked=True), 4 / shape[1]),
        (sp.BP.for_sparsity(shape, sparsity), 1 / shape[1]),
        (sp.BP.for_sparsity(shape, sparsity, axis="rows"), 1 / shape[0]),
        (sp.NM.for_sparsity(shape, sparsity, v=16), 1 / 16),
        (sp.Block.for_sparsity(shape, sparsity, bh=12), 12 / area),
        (sp.Unstructured.for_sparsity(shape, sparsity), 1 / area),
    ]:
        assert abs(structure.sparsity(shape) - sparsity) <= step, structure.label()
    weight = np.random.default_rng(0).standard_normal(shape)
    for structure in (sp.PP.for_sparsity(shape, sparsity, p=12), sp.BPPP.for_sparsity(shape, sparsity, p=12)):
        assert abs(1 - structure.mask(weight).mean() - sparsity) < 0.01, structure.label()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sp.HP(32, 0, 4, 2), "at least 1"),
        (lambda: sp.HP(32, 8, 4, 5), "n must not exceed v"),
        (lambda: sp.HP(30, 8, 4, 2, 4), "multiple of g"),
        (lambda: sp.HP(32, 9, 4, 2, banked=True), "multiple of v"),
        (lambda: sp.NM(0, 4), "at least 1"),
        (lambda: sp.NM(5, 4), "n must not exceed v"),
        (lambda: sp.BP(0, 4), "at least 1"),
        (lambda: sp.BP(4, 4, "diagonal"), "columns or rows"),  # pyright: ignore[reportArgumentType]
        (lambda: sp.PP(0, 4, 1), "at least 1"),
        (lambda: sp.PP(4, 4, 17), "between 1 and"),
        (lambda: sp.BPPP(32, 8, 4, 4, 0), "between 1 and"),
        (lambda: sp.Block(0, 1, 1), "at least 1"),
        (lambda: sp.Block(1, 2, -1), "negative"),
        (lambda: sp.Unstructured(-1), "negative"),
        (lambda: sp.HP.for_sparsity((64, 64), 0.2), "prunes at least"),
        (lambda: sp.HP(8, 9, 4, 2).mask(np.ones((8, 8))), "more columns than"),
        (lambda: sp.HP(8, 8, 4, 2, banked=True).mask(np.ones((8, 7))), "more columns"),
        (lambda: sp.BP(8, 9).mask(np.ones((8, 8))), "more than the 8"),
        (lambda: sp.Block(4, 4, 5).pack(np.ones((8, 8))), "5 blocks"),
        (lambda: sp.Unstructured(3).pack(np.ones((2, 2))), "4 non-zeros"),
        (lambda: sp.PP(4, 2, 3).mask(np.ones((8, 8)), patterns=np.ones((2, 4, 4))), "3 kept cells"),
        (lambda: sp.HP(8, 8, 4, 2).pack(np.ones((8, 8))), "32 weights lie outside, the first at row 0"),
        (lambda: sp.Dense().pack(np.ones(8)), "matrix"),
        (lambda: sp.Dense().pack(np.ones((0, 8))), "matrix"),
        (lambda: sp.Dense().pack(np.array([["a"]])), "real numbers"),
    ],
)
def test_wrong_values_are_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # pyright: ignore[reportCallIssue]


@settings(max_examples=60, deadline=None)
@given(cases(), st.data())
def test_damaged_bytes_are_refused_or_read_as_a_matrix(
    case: tuple[tuple[int, int], sp.Structure], data: st.DataObject
) -> None:
    shape, structure = case
    weight = weights(shape, np.float32, 0)
    packed = structure.encode(np.where(structure.mask(weight), weight, np.float32(0)))
    whole = sp.to_bytes(packed)
    for damaged in (whole[: data.draw(st.integers(0, len(whole) - 1))], whole + b"x"):
        with pytest.raises(ValueError, match="packed matrix"):
            sp.from_bytes(damaged)
    flipped = bytearray(whole)
    flipped[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        matrix = sp.from_bytes(bytes(flipped)).unpack()
    except ValueError:
        return
    assert matrix.ndim == 2
