"""Activations and parameters as the accelerator's memories hold them."""

from __future__ import annotations

import numpy as np

from espalier.targets.fpga.geometry import Geometry


def to_tiles(x: np.ndarray, geometry: Geometry) -> np.ndarray:
    """int8 `[tokens, features]` to `[tiles, slots, banks, tokens a tile]`; places beyond both are 0."""
    g = geometry
    m, k = x.shape
    tiles, slots = -(-m // g.tokens), -(-k // g.banks)
    full = np.zeros((tiles * g.tokens, slots * g.banks), np.int8)
    full[:m, :k] = x
    return np.ascontiguousarray(full.reshape(tiles, g.tokens, slots, g.banks).transpose(0, 2, 3, 1))


def from_tiles(tiles: np.ndarray, tokens: int, features: int) -> np.ndarray:
    """The inverse of `to_tiles`: int8 `[tokens, features]`."""
    count, slots, banks, width = tiles.shape
    return tiles.transpose(0, 3, 1, 2).reshape(count * width, slots * banks)[:tokens, :features]


def param_words(entries: np.ndarray, geometry: Geometry) -> np.ndarray:
    """uint64 `[n]` to whole parameter words `[words, entries a word]`, padded with 0."""
    per = geometry.params_per_word
    full = np.zeros(-(-len(entries) // per) * per, np.uint64)
    full[: len(entries)] = entries
    return full.reshape(-1, per)
