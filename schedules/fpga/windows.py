"""Cuts a pruned int8 matrix into the weight words of the accelerator's array.

A window takes one column of every bank, so its reads never meet in a bank: bank b holds the columns
c = b (mod banks), and window g is the g-th kept column of every bank. HP whose kept columns are spread evenly
over the banks ("bank-balanced") has exactly `lanes` weights a row and window when its v is `banks` and its n
`lanes`: one word a window, no lane idle. Any other mask is right as well; a window in which some row has more
weights than lanes is repeated with the rest of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from espalier.targets.fpga.geometry import Geometry

TALLEST = 64
"""Rows of the tallest block of HP that is looked for."""


@dataclass(frozen=True)
class Words:
    """The weight words of one block of rows, in the order the array takes them."""

    values: np.ndarray
    """int8 `[words, pes, lanes]`"""
    masks: np.ndarray
    """bool `[words, pes, banks]`; the banks of a row's values, ascending. Empty (0 words) when dense."""
    slots: np.ndarray
    """int `[words, banks]`; empty when dense."""

    @property
    def sparse(self) -> bool:
        """Has masks and slots."""
        return len(self.slots) > 0

    @property
    def count(self) -> int:
        """Words."""
        return len(self.values)


def slots_of(features: int, geometry: Geometry) -> int:
    """Activation words a tile of so many features."""
    return -(-features // geometry.banks)


def block_columns(mask: np.ndarray, row: int, geometry: Geometry) -> np.ndarray:
    """The columns to make windows of for rows `[row, row + pes)` of `mask` bool `[N, K]`: those that take the
    fewest words.

    These are the columns that the rows keep, or those of a taller block that they are a part of. A block of
    HP may be taller than the array; where some of its columns are used by none of the array's rows, windows
    of what they do use would no longer be the pruner's.
    """
    g = geometry
    part = mask[row : row + g.pes]
    heights = [g.pes]
    while 2 * heights[-1] <= TALLEST:
        heights.append(2 * heights[-1])
    starts = [row // height * height for height in heights]
    found = [
        np.flatnonzero(mask[start : start + height].any(0))
        for start, height in zip(starts, heights, strict=True)
    ]
    return min(found, key=lambda columns: _passes(_windows(part, columns, g)[1], g).sum())


def sparse_count(mask: np.ndarray, row: int, geometry: Geometry) -> int:
    """Words of rows `[row, row + pes)` of `mask` bool `[N, K]`, by the columns of `block_columns`."""
    columns = block_columns(mask, row, geometry)
    return int(_passes(_windows(mask[row : row + geometry.pes], columns, geometry)[1], geometry).sum())


def _windows(mask: np.ndarray, columns: np.ndarray, g: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """(slots int `[windows, banks]`, which weights are kept bool `[windows, rows, banks]`)."""
    kept = [np.sort(columns[columns % g.banks == bank]) // g.banks for bank in range(g.banks)]
    windows = max(1, *map(len, kept))
    slots = np.zeros((windows, g.banks), np.int64)
    here = np.zeros((windows, len(mask), g.banks), bool)
    for bank, slot in enumerate(kept):
        slots[: len(slot), bank] = slot
        here[: len(slot), :, bank] = mask[:, slot * g.banks + bank].T
    return slots, here


def _passes(here: np.ndarray, g: Geometry) -> np.ndarray:
    """Words of each window."""
    return np.maximum(1, -(-here.sum(-1).max(-1) // g.lanes))


def sparse_words(
    weight: np.ndarray, mask: np.ndarray, geometry: Geometry, columns: np.ndarray | None = None
) -> Words:
    """The words of up to `pes` rows `weight` int8 `[rows, K]` whose kept places are `mask` bool `[rows, K]`.

    `columns` are the columns that the block keeps, where known: one that no row uses still has its place in
    the windows then, and those after it stay where the pruner had them. A kept weight may be 0. A block
    that keeps nothing gets one word of zeros. Raises ValueError for too many rows, or columns whose slots do
    not fit.
    """
    g = geometry
    rows, k = weight.shape
    if rows > g.pes:
        raise ValueError(f"a block of {rows} rows; the array has {g.pes}")
    if slots_of(k, g) > 1 << g.slot_bits:
        raise ValueError(
            f"{k} columns need {slots_of(k, g)} slots; slot_bits {g.slot_bits} hold {1 << g.slot_bits}"
        )
    if columns is None:
        columns = np.flatnonzero(mask.any(0))
    slots, kept = _windows(mask, columns, g)
    here = np.zeros((len(slots), g.pes, g.banks), bool)
    here[:, :rows] = kept
    data = np.zeros(here.shape, np.int8)
    places = np.minimum(slots * g.banks + np.arange(g.banks), k - 1)
    data[:, :rows] = np.where(kept, weight[:, places].transpose(1, 0, 2), 0)
    rank = here.cumsum(-1) - 1  # the place of a kept weight among those of its row and window
    passes = _passes(here, g)
    values, masks, order = [], [], []
    for number in range(int(passes.max())):
        which = np.flatnonzero(passes > number)
        now = here[which] & (rank[which] // g.lanes == number)
        first = np.argsort(~now, axis=-1, kind="stable")[..., : g.lanes]
        values.append(
            np.where(np.take_along_axis(now, first, -1), np.take_along_axis(data[which], first, -1), 0)
        )
        masks.append(now)
        order.append(which)
    index = np.argsort(np.concatenate(order), kind="stable")
    window = np.concatenate(order)[index]
    return Words(np.concatenate(values)[index].astype(np.int8), np.concatenate(masks)[index], slots[window])


def dense_words(weight: np.ndarray, geometry: Geometry) -> Words:
    """The words of up to `pes` dense rows `weight` int8 `[rows, K]`. Raises ValueError for too many rows."""
    g = geometry
    rows, k = weight.shape
    if rows > g.pes:
        raise ValueError(f"a block of {rows} rows; the array has {g.pes}")
    full = np.zeros((g.pes, slots_of(k, g) * g.banks), np.int8)
    full[:rows, :k] = weight
    values = full.reshape(g.pes, -1, g.lanes).transpose(1, 0, 2)
    return Words(
        np.ascontiguousarray(values), np.zeros((0, g.pes, g.banks), bool), np.zeros((0, g.banks), np.int64)
    )


def to_bytes(words: Words, geometry: Geometry) -> np.ndarray:
    """The words as external memory holds them: uint8 `[words, beats * bus]`, each padded to whole beats."""
    g = geometry
    parts = [words.values.reshape(words.count, -1).view(np.uint8)]
    if words.sparse:
        parts.append(np.packbits(words.masks.reshape(words.count, -1), axis=-1, bitorder="little"))
        parts.append(
            words.slots.astype("<u2" if g.slot_bits == 16 else "u1").view(np.uint8).reshape(words.count, -1)
        )
    body = np.concatenate(parts, axis=1)
    beats = g.beats("WGT" if words.sparse else "WGT_DENSE")
    out = np.zeros((words.count, beats * g.bus), np.uint8)
    out[:, : body.shape[1]] = body
    return out
