"""One pattern set for a whole model, as RT3 stores it (DAC 2021, arXiv 2102.06336, level 2)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from espalier.sparsity import BPPP, PP, Structure


def common_patterns(structures: Sequence[Structure], weights: Sequence[np.ndarray]) -> np.ndarray:
    """Patterns bool `[m, p, p]` that lose little in all `weights` `[N, K]` together.

    structures: PP or BP+PP of equal p, m and kept, one a weight. Made from the whole blocks of all weights
    (of BP+PP: of what the backbones keep), each weight scaled to a mean square of 1 so that none outweighs
    the others; a weight smaller than a block has a say only where no weight has a whole one.
    """
    parts = [_blocks(*pair) for pair in zip(structures, weights, strict=True)]
    full = [blocks for blocks, whole in parts if whole]
    tall = np.concatenate(full or [blocks for blocks, _ in parts])
    return _pattern(structures[0]).patterns(tall)


def require_blocks(structure: Structure, shape: tuple[int, int], sparsity: float) -> None:
    """ValueError where a weight has so few whole blocks that patterns may keep 5 % too much of it."""
    if sparsity - structure.sparsity(shape) > 0.05:
        p = _pattern(structure).p
        raise ValueError(
            f"a weight of {shape[0]}x{shape[1]} is too small for patterns of {p}x{p} at sparsity "
            f"{sparsity:g}: {structure.label()} may prune only {structure.sparsity(shape):.3g} of it; "
            "give a smaller p"
        )


def _pattern(structure: Structure) -> PP:
    if isinstance(structure, BPPP):
        return structure.pattern
    if isinstance(structure, PP):
        return structure
    raise ValueError(f"{structure.label()} has no patterns")


def _blocks(structure: Structure, weight: np.ndarray) -> tuple[np.ndarray, bool]:
    """The blocks of a weight below each other, `[count * p, p]`, and whether they are whole ones."""
    p = _pattern(structure).p
    if isinstance(structure, BPPP):
        bp = structure.backbone
        turned = bp.turned(weight)
        weight = bp.compact(turned, bp.keep(bp.turned(bp.mask(weight))))
    weight = weight / max(float(np.sqrt(np.mean(weight.astype(np.float64) ** 2))), 1e-30)
    tall, wide = (size // p for size in weight.shape)
    if tall == 0 or wide == 0:
        cell = np.zeros((-(-weight.shape[0] // p) * p, -(-weight.shape[1] // p) * p), weight.dtype)
        cell[: weight.shape[0], : weight.shape[1]] = weight
        return _stacked(cell, p), False
    return _stacked(weight[: tall * p, : wide * p], p), True


def _stacked(weight: np.ndarray, p: int) -> np.ndarray:
    rows, columns = weight.shape
    blocks = weight.reshape(rows // p, p, columns // p, p).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(blocks).reshape(-1, p)
