"""Weight words give the matrix back, whatever its mask, and HP takes no word more than it must."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from espalier.schedules.fpga.windows import block_columns, dense_words, sparse_count, sparse_words, to_bytes
from espalier.sparsity import HP
from espalier.sparsity.sizes import sizes
from espalier.targets.fpga.geometry import Geometry
from espalier.targets.fpga.layout import from_tiles, param_words, to_tiles

pytestmark = pytest.mark.unit
G = Geometry(16, 4, 8, 8, 4, 16, 8, 4096, 512, 256, 32)


def unpack(words, geometry, rows, k):
    """The matrix that the array would multiply with."""
    out = np.zeros((geometry.pes, 65536), np.int64)
    for word in range(words.count):
        for row in range(geometry.pes):
            banks = np.flatnonzero(words.masks[word, row])
            assert len(banks) <= geometry.lanes
            for lane, bank in enumerate(banks):
                out[row, words.slots[word, bank] * geometry.banks + bank] += words.values[word, row, lane]
    assert not out[rows:].any() and not out[:, k:].any()
    return out[:rows, :k]


@given(st.integers(1, 16), st.integers(1, 70), st.floats(0, 1), st.integers(0, 2**32))
def test_any_mask_round_trips(rows, k, density, seed):
    rng = np.random.default_rng(seed)
    weight = rng.integers(-128, 128, (rows, k)).astype(np.int8)
    mask = rng.random((rows, k)) < density
    words = sparse_words(weight, mask, G)
    np.testing.assert_array_equal(unpack(words, G, rows, k), np.where(mask, weight, 0))


def bank_balanced(rng, rows, k, keep, n, banks):
    """An HP mask: `keep` columns of every bank; a row keeps n of each window."""
    mask = np.zeros((rows, k), bool)
    columns = np.stack([rng.permutation(k // banks)[:keep] * banks + b for b in range(banks)], 1)
    columns = np.sort(columns, 0)
    for row in range(rows):
        for window in columns:
            mask[row, rng.permutation(window)[:n]] = True
    return mask


@given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 2**32))
def test_bank_balanced_hp_takes_one_word_for_every_lanes_weights(keep, n, seed):
    rng = np.random.default_rng(seed)
    mask = bank_balanced(rng, 16, 64, keep, n, 8)
    words = sparse_words(np.ones((16, 64), np.int8), mask, G)
    assert words.count <= keep * -(-n // 4)
    # a column that no row uses, as may be where n is small, leaves fewer windows
    assert words.count == keep * -(-n // 4) or mask.any(0).sum() < keep * 8
    assert n != 4 or (words.masks.sum(-1) == 4).all()


@given(st.integers(1, 8), st.integers(3, 4), st.integers(0, 2**32))
def test_a_block_taller_than_the_array_keeps_its_windows(keep, n, seed):
    """One column in a few dozen is used by none of 8 rows, which is one in most layers."""
    g = replace(G, pes=8)
    rng = np.random.default_rng(seed)
    mask = np.zeros((70, 64), bool)
    for row in (0, 32, 64):
        mask[row : row + 32] = bank_balanced(rng, len(mask[row : row + 32]), 64, keep, n, 8)
    weight = np.where(mask, rng.integers(-128, 128, mask.shape), 0).astype(np.int8)
    for row in range(0, 64, 8):
        assert sparse_count(mask, row, g) <= keep
    for row in range(0, 70, 8):
        part = slice(row, row + 8)
        words = sparse_words(weight[part], mask[part], g, block_columns(mask, row, g))
        assert words.count == sparse_count(mask, row, g) <= sparse_words(weight[part], mask[part], g).count
        np.testing.assert_array_equal(unpack(words, g, len(weight[part]), 64), weight[part])


@given(st.integers(1, 70), st.integers(1, 40), st.floats(0, 1), st.integers(0, 2**32))
def test_any_mask_round_trips_by_blocks(rows, k, density, seed):
    g = replace(G, pes=8)
    rng = np.random.default_rng(seed)
    mask = rng.random((rows, k)) < density
    weight = np.where(mask, rng.integers(-128, 128, (rows, k)), 0).astype(np.int8)
    for row in range(0, rows, 8):
        part = slice(row, row + 8)
        words = sparse_words(weight[part], mask[part], g, block_columns(mask, row, g))
        assert words.count == sparse_count(mask, row, g)
        np.testing.assert_array_equal(unpack(words, g, len(weight[part]), k), weight[part])


def test_dense_words_hold_lanes_of_consecutive_columns():
    weight = np.arange(2 * 20, dtype=np.int8).reshape(2, 20)
    words = dense_words(weight, G)
    assert words.count == 6 and not words.sparse
    np.testing.assert_array_equal(words.values[1, 1], weight[1, 4:8])
    assert not words.values[:, 2:].any() and not words.values[5].any()


def test_bytes_are_the_formula_plus_padding():
    rng = np.random.default_rng(0)
    words = sparse_words(np.ones((16, 64), np.int8), bank_balanced(rng, 16, 64, 4, 4, 8), G)
    data = to_bytes(words, G)
    # 4 windows of 16 x 4 values, 16 masks of 8 bits, 8 slots of a byte; 88 bytes take 6 beats of 16
    assert data.shape == (4, 96) and not data[:, 88:].any()
    assert list(data[0, 80:88]) == list(words.slots[0])
    assert data[0, 64] == int((words.masks[0, 0] * (1 << np.arange(8))).sum())


@pytest.mark.parametrize(("keep", "beaten"), [(39, ("csr", "bcsr")), (8, ("csr", "bcsr", "bitmap"))])
def test_hp_on_the_wire_is_smaller_than_other_formats(keep, beaten):
    """312 columns, of which a block of 32 rows keeps 8 times `keep`, half of each vector."""
    rng = np.random.default_rng(0)
    mask = np.concatenate([bank_balanced(rng, 32, 312, keep, 4, 8) for _ in range(3)])
    matrix = np.where(mask, rng.integers(1, 128, mask.shape), 0).astype(np.int8)
    sent = 0
    for row in range(0, 96, 16):
        part, columns = slice(row, row + 16), block_columns(mask, row, G)
        sent += to_bytes(sparse_words(matrix[part], mask[part], G, columns), G).size
    # a window of 16 rows: 64 values, 16 bytes of masks and 8 of slots, in 6 beats of 16 bytes
    assert sent == 6 * keep * 96
    found = sizes(matrix, HP(B=32, kc=8 * keep, v=8, n=4), index_width="exact")
    assert all(sent < found[name] for name in beaten)


def test_wide_slots_are_two_bytes():
    g = Geometry(16, 4, 8, 8, 4, 16, 16, 4096, 512, 256, 32)
    weight = np.ones((1, 4096), np.int8)
    mask = np.zeros((1, 4096), bool)
    mask[0, 4095] = True
    with pytest.raises(ValueError, match="need 512 slots; slot_bits 8 hold 256"):
        sparse_words(weight, mask, G)
    words = sparse_words(weight, mask, g)
    assert words.count == 1 and list(to_bytes(words, g)[0, 94:96]) == [511 & 255, 511 >> 8]


def test_too_many_rows_are_refused():
    for pack in (lambda w: dense_words(w, G), lambda w: sparse_words(w, w > 0, G)):
        with pytest.raises(ValueError, match="a block of 17 rows"):
            pack(np.ones((17, 8), np.int8))


@given(st.integers(1, 40), st.integers(1, 40))
def test_tiles_round_trip(tokens, features):
    x = np.arange(tokens * features).astype(np.int8).reshape(tokens, features)
    tiles = to_tiles(x, G)
    np.testing.assert_array_equal(from_tiles(tiles, tokens, features), x)
    assert tiles[(tokens - 1) // 8, (features - 1) // 8, (features - 1) % 8, (tokens - 1) % 8] == x[-1, -1]


def test_param_words_are_padded():
    assert param_words(np.arange(5, dtype=np.uint64), G).tolist() == [[0, 1, 2, 3], [4, 0, 0, 0]]
