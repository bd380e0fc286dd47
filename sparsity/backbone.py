"""BP + PP: pattern pruning laid over the compact matrix that block-structured pruning leaves (RT3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from espalier.sparsity.alignment import align, sound_strips
from espalier.sparsity.bitstream import BitReader, BitWriter
from espalier.sparsity.columns import BP, Axis, read_columns, write_columns
from espalier.sparsity.hierarchical import in_blocks
from espalier.sparsity.partition import seen_columns
from espalier.sparsity.patterns import PP, PackedPP, find_patterns
from espalier.sparsity.structure import Packed, Structure, as_matrix, ceil_div, index_bits


@dataclass(frozen=True)
class BPPP(Structure):
    """BP(B, kc, axis), and PP(p, m, kept) over the `[N, kc]` of kept columns (axis "rows": transposed)."""

    B: int
    kc: int
    p: int
    m: int
    kept: int
    axis: Axis = "columns"

    def __post_init__(self) -> None:
        _ = self.backbone, self.pattern  # both check their own parameters

    @classmethod
    def for_sparsity(
        cls, shape: tuple[int, int], sparsity: float, *, backbone: float | None = None, B: int = 32,
        p: int = 100, m: int = 4, axis: Axis = "columns",
    ) -> BPPP:  # fmt: skip
        """BP of sparsity `backbone` (default: both levels keep the same share), the rest by patterns."""
        share = (1.0 - sparsity) ** 0.5 if backbone is None else 1.0 - backbone
        bp = BP.for_sparsity(shape, 1.0 - share, B=B, axis=axis)
        left = min((1.0 - sparsity) / (1.0 - bp.sparsity(shape)), 1.0)
        pp = PP.for_sparsity(shape, 1.0 - left, p=p, m=m)
        return cls(B, bp.kc, p, m, pp.kept, axis)

    @property
    def backbone(self) -> BP:
        return BP(self.B, self.kc, self.axis)

    @property
    def pattern(self) -> PP:
        return PP(self.p, self.m, self.kept)

    @property
    def name(self) -> str:
        return "BP+PP"

    def params(self) -> dict[str, Any]:
        return self.backbone.params() | self.pattern.params()

    def label(self) -> str:
        rows = ",axis=rows" if self.axis == "rows" else ""
        return f"BP+PP(B={self.B},kc={self.kc}{rows},p={self.p},m={self.m},kept={self.kept})"

    def compact_shape(self, shape: tuple[int, int]) -> tuple[int, int]:
        return self.backbone.turned_shape(shape)[0], self.kc

    def mask(self, weight: np.ndarray, *, patterns: np.ndarray | None = None) -> np.ndarray:
        """The backbone by column norms, then in what it keeps the patterns that lose least."""
        weight = as_matrix(weight)
        bp = self.backbone
        turned = bp.turned(weight)
        columns = bp.keep(bp.turned(bp.mask(weight)))
        mask = self.pattern.mask(bp.compact(turned, columns), patterns=patterns)
        return bp.scatter(mask, columns, (weight.shape[0], weight.shape[1]))

    def kept_count(self, shape: tuple[int, int]) -> int:
        """As PP: exact where p divides the compact matrix."""
        return self.pattern.kept_count(self.compact_shape(shape))

    def bits(self, shape: tuple[int, int], value_bits: int = 32) -> int:
        """The list of kept columns of BP and the bits of PP over the compact matrix."""
        return self.list_bits(shape) + self.pattern.bits(self.compact_shape(shape), value_bits)

    def list_bits(self, shape: tuple[int, int]) -> int:
        rows, columns = self.backbone.turned_shape(shape)
        return ceil_div(rows, self.B) * self.kc * index_bits(columns)

    def places(self, turned: np.ndarray) -> np.ndarray:
        """The kept columns of each block in the order of the compact matrix, int64 `[R, kc]`."""
        bp = self.backbone
        bp.check(turned.shape)
        used = turned != 0
        users = in_blocks(used, self.B).sum(axis=1, dtype=np.int32)
        columns, counts = seen_columns(users, self.kc)
        columns = columns[:, : self.kc]
        strips = sound_strips(np.repeat(counts < self.kc, self.B)[: len(used)], self.p)
        if (counts == self.kc).all() or not strips.size:
            return columns
        rows = (strips[:, None] * self.p + np.arange(self.p)).reshape(-1)
        patterns, _ = find_patterns(bp.compact(used, columns)[rows], self.p, self.m, self.kept)
        return align(used, columns, counts, patterns, self.B)

    def encode(self, matrix: np.ndarray) -> PackedBPPP:
        matrix = as_matrix(matrix)
        bp = self.backbone
        turned = bp.turned(matrix)
        columns = self.places(turned)
        inner = self.pattern.encode(bp.compact(turned, columns))
        shape = (matrix.shape[0], matrix.shape[1])
        return PackedBPPP(self, shape, matrix.dtype, Packed.NONE, columns.astype(np.int32), inner)


@dataclass(frozen=True, eq=False)
class PackedBPPP(Packed):
    """columns: int32 `[R, kc]`, ascending but for columns that no row uses, which may stand anywhere.

    compact: the packed PP of the `[N, kc]` (axis "rows": `[K, kc]`) of kept columns side by side.
    """

    columns: np.ndarray
    compact: PackedPP

    def decode(self) -> np.ndarray:
        structure: Any = self.structure
        return structure.backbone.scatter(self.compact.decode(), self.columns, self.shape)

    def kept_count(self) -> int:
        return self.compact.kept_count()

    def bits(self, value_bits: int | None = None) -> int:
        structure: Any = self.structure
        return structure.list_bits(self.shape) + self.compact.bits(value_bits)

    def write(self, out: BitWriter) -> None:
        structure: Any = self.structure
        write_columns(out, self.columns, structure.backbone, self.shape)
        self.compact.write(out)

    @classmethod
    def read(cls, structure: BPPP, shape: tuple[int, int], dtype: np.dtype, source: BitReader) -> PackedBPPP:
        columns = read_columns(source, structure.backbone, shape)
        compact = PackedPP.read(structure.pattern, structure.compact_shape(shape), dtype, source)
        return cls(structure, shape, dtype, Packed.NONE, columns, compact)
