"""Hierarchical pruning (HP) and N:M, its case without level 1.

HP prunes twice. Level 1 cuts the rows into blocks of B and keeps kc whole columns of each. Level 2 groups the
kept columns, in order, into vectors of v, in each of which a row keeps n weights; with g > 1 the choice is
common to g consecutive rows. Source: the HP paper (ICCAD 2021, arXiv 2110.10030), section 3.

Short ends: the last block has the rows that remain, the last group of a block the rows that remain, the last
vector the columns that remain (len of them); a short vector keeps min(n, len).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from espalier.sparsity.banks import banked_columns
from espalier.sparsity.bitstream import BitReader, BitWriter
from espalier.sparsity.partition import cut_vectors, group_unions
from espalier.sparsity.structure import Packed, Structure, as_matrix, ceil_div, index_bits, require


def largest(score: np.ndarray, count: int) -> np.ndarray:
    """The `count` largest of the last axis, bool; of equal ones the first."""
    order = np.argsort(-score, axis=-1, kind="stable")[..., :count]
    mask = np.zeros(score.shape, bool)
    np.put_along_axis(mask, order, True, axis=-1)
    return mask


def in_blocks(matrix: np.ndarray, height: int) -> np.ndarray:
    """`[N, K]` as `[ceil(N / height), height, K]`, zero rows appended."""
    rows, columns = matrix.shape
    count = ceil_div(rows, height)
    if count * height != rows:
        matrix = np.concatenate([matrix, np.zeros((count * height - rows, columns), matrix.dtype)])
    return matrix.reshape(count, height, columns)


def vector_lengths(kept: int, v: int) -> np.ndarray:
    """The lengths of the vectors that `kept` columns make: all v but the last, int64 `[ceil(kept / v)]`."""
    return np.minimum(v, kept - np.arange(0, kept, v))


def select_bits(length: int, n: int) -> int:
    """Bits that tell which n of a vector are kept: the cheaper of a mask and n indices."""
    return min(length, min(n, length) * index_bits(length))


def level2_bits(rows: int, groups: int, kept: int, n: int, v: int, value_bits: int) -> int:
    """Values of `rows` rows and selections of `groups` groups over `kept` columns."""
    full, rest = divmod(kept, v)
    bits = full * (rows * min(n, v) * value_bits + groups * select_bits(v, n))
    if rest:
        bits += rows * min(n, rest) * value_bits + groups * select_bits(rest, n)
    return bits


@dataclass(frozen=True)
class HP(Structure):
    """Hierarchical pruning: kc columns of each B rows, n of each v of them, chosen for g rows at once.

    B: a multiple of g. kc: a multiple of v, or any number where the last vector may be short.
    banked: for accelerators with v memory banks. Column c lies in bank c mod v; each block keeps kc / v
    columns of each bank, and vector j is made of the j-th kept column of every bank, so that the weights of a
    row in a vector lie in distinct banks. kc is then a multiple of v.
    """

    B: int
    kc: int
    v: int
    n: int
    g: int = 1
    banked: bool = False

    def __post_init__(self) -> None:
        sizes = (self.B, self.kc, self.v, self.n, self.g)
        require(min(sizes) >= 1, f"HP: B, kc, v, n and g must be at least 1, got {sizes}")
        require(self.n <= self.v, f"HP: n must not exceed v, got n={self.n}, v={self.v}")
        require(self.B % self.g == 0, f"HP: B must be a multiple of g, got B={self.B}, g={self.g}")
        require(
            not self.banked or self.kc % self.v == 0,
            f"HP: a banked kc must be a multiple of v, got kc={self.kc}, v={self.v}",
        )

    @classmethod
    def for_sparsity(
        cls, shape: tuple[int, int], sparsity: float, *, B: int = 32, v: int = 4, n: int = 2, g: int = 1,
        banked: bool = False,
    ) -> HP:  # fmt: skip
        """The HP nearest to a wanted sparsity: level 2 as given, level 1 makes up the rest.

        Raises ValueError where level 2 alone prunes more than is wanted.
        """
        columns = shape[1]
        wanted = (1.0 - sparsity) * columns * v / n
        require(
            0.0 <= sparsity < 1.0 and wanted <= columns + v / 2,
            f"HP {n}:{v} prunes at least {1 - n / v:.3f} of the weights, got a wanted sparsity of {sparsity}",
        )
        kc = min(max(round(wanted / v), 1) * v, columns - (columns % v if banked else 0))
        return cls(B, kc, v, n, g, banked)

    @property
    def name(self) -> str:
        return "HP"

    def params(self) -> dict[str, Any]:
        params = {"B": self.B, "kc": self.kc, "v": self.v, "n": self.n, "g": self.g}
        return params | {"banked": True} if self.banked else params

    def label(self) -> str:
        shared = f",g={self.g}" if self.g > 1 else ""
        banked = ",banked" if self.banked else ""
        return f"HP(B={self.B},kc={self.kc},v={self.v},n={self.n}{shared}{banked})"

    def mask(self, weight: np.ndarray) -> np.ndarray:
        """Level 1 by the l2 norm of a block's columns, level 2 by the l2 norm of a group's weights.

        Where level 1 prunes, every column it keeps is used by some group of its block, if a block has groups
        enough for that: one that none would choose takes the place of another where this loses least.
        """
        weight = as_matrix(weight)
        rows, total = weight.shape
        self._check(weight.shape)
        energy = in_blocks(weight.astype(np.float64) ** 2, self.B)
        norms = energy.sum(axis=1)
        if self.banked:
            per_bank = self.kc // self.v
            level1 = np.zeros(norms.shape, bool)
            for bank in range(self.v):
                level1[:, bank :: self.v] = largest(norms[:, bank :: self.v], per_bank)
        else:
            level1 = largest(norms, self.kc)
        columns = self._ordered(np.nonzero(level1)[1].reshape(-1, self.kc))
        blocks = len(columns)
        kept = np.take_along_axis(energy, columns[:, None, :], axis=2)
        groups = kept.reshape(blocks, self.B // self.g, self.g, self.kc).sum(axis=2)
        chosen = np.zeros(groups.shape, bool)
        for start in range(0, self.kc, self.v):
            part = slice(start, start + self.v)
            chosen[..., part] = largest(groups[..., part], self.n)
        if self.kc < total:
            for block in range(blocks):
                real = ceil_div(min(self.B, rows - block * self.B), self.g)  # groups that hold rows
                use_every_column(chosen[block, :real], groups[block, :real], self.v)
        mask = np.zeros((blocks, self.B, total), bool)
        np.put_along_axis(mask, columns[:, None, :], np.repeat(chosen, self.g, axis=1), axis=2)
        return mask.reshape(-1, total)[:rows]

    def kept_count(self, shape: tuple[int, int]) -> int:
        kc = min(self.kc, shape[1])
        return shape[0] * int(np.minimum(vector_lengths(kc, self.v), self.n).sum())

    def bits(self, shape: tuple[int, int], value_bits: int = 32) -> int:
        """R·kc·ceil(log2 K) + N·(kc/v)·n·w + ceil(N/g)·(kc/v)·min(v, n·ceil(log2 v)), R = ceil(N/B)."""
        rows, columns = shape
        index = ceil_div(rows, self.B) * self.kc * index_bits(columns)
        return index + level2_bits(rows, ceil_div(rows, self.g), self.kc, self.n, self.v, value_bits)

    def _check(self, shape: tuple[int, ...]) -> None:
        require(self.kc <= shape[1], f"{self.label()} keeps more columns than a matrix {list(shape)} has")
        require(
            not self.banked or self.kc // self.v <= shape[1] // self.v,
            f"{self.label()} keeps more columns of a bank than a matrix {list(shape)} has",
        )

    def _ordered(self, columns: np.ndarray) -> np.ndarray:
        """Kept columns, int `[R, kc]` ascending, in the order of the vectors."""
        if not self.banked:
            return columns
        by_bank = np.argsort(columns % self.v, axis=1, kind="stable")
        banks = np.take_along_axis(columns, by_bank, axis=1).reshape(len(columns), self.v, -1)
        return np.ascontiguousarray(banks.transpose(0, 2, 1)).reshape(len(columns), -1)

    def encode(self, matrix: np.ndarray) -> PackedHP:
        matrix = as_matrix(matrix)
        self._check(matrix.shape)
        used = in_blocks(matrix != 0, self.B)
        users = used.sum(axis=1, dtype=np.int32)  # [R, K]
        if self.banked:
            columns = banked_columns(group_unions(used, self.g), users, self.kc, self.v, self.n)
        else:
            columns = cut_vectors(used, users, self.kc, self.v, self.n, self.g)
        return gather(self, matrix, columns, self.B, self.v, self.n, self.g)


def use_every_column(chosen: np.ndarray, energy: np.ndarray, v: int) -> None:
    """Change `chosen` (bool `[groups, kc]`, n of each v columns) so that each column is chosen by a group.

    Where no group chose a column, one takes it instead of another of its vector that more groups chose; of
    these the pair that loses least `energy`. A vector that groups are too few for stays as it is.
    """
    for column in np.flatnonzero(~chosen.any(axis=0)):
        vector = slice(column // v * v, column // v * v + v)
        part = chosen[:, vector]
        loss = np.where(part & (part.sum(axis=0) > 1), energy[:, vector] - energy[:, [column]], np.inf)
        group, other = np.unravel_index(loss.argmin(), loss.shape)
        if np.isfinite(loss[group, other]):
            part[group, other] = False
            chosen[group, column] = True


@dataclass(frozen=True)
class NM(Structure):
    """N:M, here n of each v consecutive columns, chosen for g rows at once; 2:4 is NM(2, 4)."""

    n: int
    v: int
    g: int = 1

    def __post_init__(self) -> None:
        require(min(self.n, self.v, self.g) >= 1, f"N:M: n, v and g must be at least 1, got {self}")
        require(self.n <= self.v, f"N:M: n must not exceed v, got n={self.n}, v={self.v}")

    @classmethod
    def for_sparsity(cls, shape: tuple[int, int], sparsity: float, *, v: int = 4, g: int = 1) -> NM:
        """The n nearest to a wanted sparsity."""
        return cls(max(round((1.0 - sparsity) * v), 1), v, g)

    @property
    def name(self) -> str:
        return f"{self.n}:{self.v}"

    def params(self) -> dict[str, Any]:
        params = {"n": self.n, "v": self.v}
        return params | {"g": self.g} if self.g > 1 else params

    def label(self) -> str:
        return f"{self.name}(g={self.g})" if self.g > 1 else self.name

    def as_hp(self, shape: tuple[int, int]) -> HP:
        """The same as HP: one block of all rows (a multiple of g) that keeps every column."""
        return HP(ceil_div(shape[0], self.g) * self.g, shape[1], self.v, self.n, self.g)

    def mask(self, weight: np.ndarray) -> np.ndarray:
        """The n largest of each vector by the l2 norm over the group's rows."""
        weight = as_matrix(weight)
        return self.as_hp(weight.shape).mask(weight)

    def kept_count(self, shape: tuple[int, int]) -> int:
        return self.as_hp(shape).kept_count(shape)

    def bits(self, shape: tuple[int, int], value_bits: int = 32) -> int:
        """As HP with kc = K, but no list of columns: N·(K/v)·n·w + ceil(N/g)·(K/v)·min(v, n·ceil(log2 v))."""
        return level2_bits(shape[0], ceil_div(shape[0], self.g), shape[1], self.n, self.v, value_bits)

    def encode(self, matrix: np.ndarray) -> PackedHP:
        matrix = as_matrix(matrix)
        block = self.as_hp(matrix.shape).B
        columns = np.arange(matrix.shape[1])[None, :]
        return gather(self, matrix, columns, block, self.v, self.n, self.g)


@dataclass(frozen=True, eq=False)
class PackedHP(Packed):
    """HP or N:M. With R = ceil(N/B) blocks, V = ceil(kc/v) vectors, G = ceil(N/g) groups of rows:

    columns: int32 `[R, kc]`, the kept columns of each block in the order of the vectors; ascending but for
      columns that no row uses, which may stand anywhere. For N:M one list 0..K-1.
    select: uint8 (uint16 for v > 256) `[G, V, n]`, ascending positions 0..v-1 inside the vector.
    values: `[N, V, n]`; row i of group i // g, column `columns[i // B, j * v + select[i // g, j, k]]`.
    A short last vector of len < n columns fills only its first len slots; the others are position 0, value 0.
    """

    columns: np.ndarray
    select: np.ndarray
    values: np.ndarray

    @property
    def block(self) -> int:
        """Rows that share a list of columns (N:M: all)."""
        return self.structure.B if isinstance(self.structure, HP) else self.shape[0]

    def positions(self) -> np.ndarray:
        """The column of each value, int64 `[N, V, n]`."""
        rows = np.arange(self.shape[0])
        g, v = self.structure.g, self.structure.v  # pyright: ignore[reportAttributeAccessIssue]
        inside = self.select[rows // g].astype(np.int64)
        kept = inside + np.arange(0, self.columns.shape[1], v)[None, :, None]
        return self.columns[(rows // self.block)[:, None, None], kept].astype(np.int64)

    def decode(self) -> np.ndarray:
        matrix = np.zeros(self.shape, self.dtype)
        valid = slot_mask(self.columns.shape[1], self.structure)
        positions = self.positions()
        rows = np.arange(self.shape[0])[:, None]
        matrix[rows, positions[:, valid]] = self.values[:, valid]
        return matrix

    def write(self, out: BitWriter) -> None:
        if isinstance(self.structure, HP):
            out.integers(self.columns, index_bits(self.shape[1]))
        valid = slot_mask(self.columns.shape[1], self.structure)
        for vectors, length in vector_runs(self.columns.shape[1], self.structure.v):  # pyright: ignore[reportAttributeAccessIssue]
            n = min(self.select.shape[2], length)
            part = self.select[:, vectors, :n]
            if select_bits(length, n) < length:
                out.integers(part, index_bits(length))
            else:
                flags = np.zeros((*part.shape[:2], length), bool)
                np.put_along_axis(flags, part.astype(np.int64), True, axis=2)
                out.flags(flags)
        out.numbers(self.values[:, valid])

    @classmethod
    def read(cls, structure: HP | NM, shape: tuple[int, int], dtype: np.dtype, source: BitReader) -> PackedHP:
        rows, total = shape
        if isinstance(structure, HP):
            blocks = ceil_div(rows, structure.B)
            columns = source.integers(blocks * structure.kc, index_bits(total)).reshape(blocks, structure.kc)
            require(bool((columns < total).all()), "packed matrix: a column lies outside the matrix")
        else:
            columns = np.arange(total)[None, :]
        kept, v, n = columns.shape[1], structure.v, structure.n
        groups = ceil_div(rows, structure.g)
        select = np.zeros((groups, ceil_div(kept, v), n), np.int64)
        for vectors, length in vector_runs(kept, v):
            count, here = vectors.stop - vectors.start, min(n, length)
            if select_bits(length, here) < length:
                part = source.integers(groups * count * here, index_bits(length))
                require(bool((part < length).all()), "packed matrix: a position lies outside its vector")
            else:
                flags = source.flags(groups * count * length).reshape(-1, length)
                require(bool((flags.sum(axis=1) == here).all()), "packed matrix: a mask does not keep n")
                part = np.nonzero(flags)[1]
            select[:, vectors, :here] = part.reshape(groups, count, here)
        valid = slot_mask(kept, structure)
        values = np.zeros((rows, *select.shape[1:]), dtype)
        values[:, valid] = source.numbers(rows * int(valid.sum()), dtype).reshape(rows, -1)
        return cls(structure, shape, dtype, Packed.NONE, columns.astype(np.int32), narrow(select, v), values)


def vector_runs(kept: int, v: int) -> list[tuple[slice, int]]:
    """The full vectors as one run, the short last vector as another: (which, their length)."""
    full, rest = divmod(kept, v)
    runs = [(slice(0, full), v)] if full else []
    return [*runs, (slice(full, full + 1), rest)] if rest else runs


def slot_mask(kept: int, structure: Any) -> np.ndarray:
    """Which slots of a row hold a weight: bool `[V, n]`, False past the end of a short vector."""
    return np.arange(structure.n)[None, :] < vector_lengths(kept, structure.v)[:, None]


def narrow(select: np.ndarray, v: int) -> np.ndarray:
    return select.astype(np.uint8 if v <= 256 else np.uint16)


def gather(
    structure: HP | NM, matrix: np.ndarray, columns: np.ndarray, block: int, v: int, n: int, g: int
) -> PackedHP:
    """Pack what of `matrix` lies in `columns` (int `[R, kc]`, in the order of the vectors).

    Of each vector a group keeps the n positions with most non-zeros in its rows; of equal ones the first.
    """
    rows, kept = matrix.shape[0], columns.shape[1]
    count, length = ceil_div(kept, v), ceil_div(kept, v) * v
    compact = np.take_along_axis(in_blocks(matrix, block), columns[:, None, :], axis=2).reshape(-1, kept)
    compact = compact[: ceil_div(rows, g) * g]  # whole groups; the rows past N are zero
    padded = np.zeros((len(compact), length), matrix.dtype)
    padded[:, :kept] = compact
    users = (padded != 0).reshape(-1, g, count, v).sum(axis=1, dtype=np.int32)  # [G, V, v]
    rank = (g - users) * v + np.arange(v)  # most used first, then the first
    rank.reshape(len(users), length)[:, kept:] += (g + 1) * v  # past the end of a short vector: last
    rank.sort(axis=2)
    valid = slot_mask(kept, structure)
    select = np.where(valid, np.sort(np.where(valid, rank[..., :n] % v, v), axis=2), 0)
    group = np.arange(rows) // g
    values = np.take_along_axis(padded[:rows].reshape(rows, count, v), select[group], axis=2)
    values = np.where(valid, values, np.zeros((), matrix.dtype))
    shape = (matrix.shape[0], matrix.shape[1])
    return PackedHP(
        structure, shape, matrix.dtype, Packed.NONE, columns.astype(np.int32), narrow(select, v), values
    )
