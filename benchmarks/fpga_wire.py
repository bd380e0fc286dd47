"""Bytes of pruned int8 weights as the FPGA reads them, against CSR, BCSR and bitmap on the same matrix.

Markdown on stdout; --write also puts it into docs/results/fpga_wire.md.

    python benchmarks/fpga_wire.py --write
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from espalier.bench.accelerator import balanced_mask
from espalier.schedules.fpga.windows import block_columns, sparse_words, to_bytes
from espalier.sparsity import HP
from espalier.sparsity.sizes import sizes
from espalier.targets.fpga import search
from espalier.targets.fpga.boards import boards
from espalier.targets.fpga.encoder import Pruning
from espalier.targets.fpga.geometry import Geometry

SHAPES = ((312, 312), (1200, 312), (1536, 384), (800, 800))
SPARSITIES = (0.5, 0.75, 0.9, 0.95)
BOARD = "zcu104"


def wire(matrix: np.ndarray, g: Geometry) -> tuple[int, int]:
    """(bytes that say something, all bytes) of the weight words of int8 `[N, K]`."""
    mask = matrix != 0
    told = sent = 0
    for row in range(0, len(matrix), g.pes):
        part = slice(row, row + g.pes)
        words = sparse_words(matrix[part], mask[part], g, block_columns(mask, row, g))
        told += words.count * g.sparse_bytes
        sent += to_bytes(words, g).size
    return told, sent


def rows(g: Geometry) -> Iterator[str]:
    """Rows of the table."""
    rng = np.random.default_rng(0)
    for n, k in SHAPES:
        for sparsity in SPARSITIES:
            how = Pruning(columns=(1 - sparsity) * 2, n=g.banks // 2)
            mask = balanced_mask(rng, n, k, how, g)
            matrix = np.where(mask, rng.integers(1, 128, mask.shape), 0).astype(np.int8)
            kept = int(mask[0].sum()) * 2
            structure = HP(B=32, kc=kept, v=g.banks, n=g.banks // 2)
            told, sent = wire(matrix, g)
            plain = sizes(matrix, structure, index_width="exact")
            usual = sizes(matrix, structure)
            bytes_ = [plain["hp"], told, sent, plain["csr"], usual["csr"], plain["bcsr"], plain["bitmap"]]
            shares = ", ".join(f"{sent / plain[name]:.2f}" for name in ("csr", "bcsr", "bitmap"))
            told_all = " | ".join(f"{size:,}" for size in bytes_)
            yield f"| {n} x {k} | {100 * (1 - mask.mean()):.1f} % | {told_all} | {shares} |"


def main() -> None:
    """Print the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="write docs/results/fpga_wire.md as well")
    args = parser.parse_args()
    g = search.standard(boards()[BOARD])
    head = ("N x K", "zeros", "HP's formula", "wire", "sent", "CSR", "CSR, int32", "BCSR", "bitmap")
    lines = [
        "# Pruned weights on the FPGA's wire",
        "",
        f"int8 weights, HP of 32 rows, half of each vector of {g.banks}, bank-balanced, in the words",
        f"that the {BOARD}'s geometry {g.label} reads: `python benchmarks/fpga_wire.py --write`.",
        "All columns are bytes.",
        "",
        "A weight word is a window: one column of every bank for `pes` rows. It holds pes x lanes values, a",
        f"mask of {g.banks} bits a row and a slot a bank: {g.pes * g.lanes} + {g.pes * g.banks // 8} + "
        f"{g.banks * g.slot_bits // 8} = {g.sparse_bytes} bytes here (`wire`),",
        f"padded to whole beats of {g.bus} bytes: {g.beats('WGT') * g.bus} (`sent`).",
        "",
        "`HP's formula` is `Structure.bits`: every column's index in as many bits as it needs, and a mask",
        "of v bits a vector; the wire has slots of whole bytes, which count within a bank. CSR, BCSR (best",
        "block size) and bitmap hold int8 values and indices of exactly as many bits as they need, which no",
        "library does; `CSR, int32` is what libraries do.",
        "",
        f"| {' | '.join(head)} | sent / CSR, BCSR, bitmap |",
        "|---" * (len(head) + 1) + "|",
        *rows(g),
    ]
    text = "\n".join(lines) + "\n"
    print(text, end="")
    if args.write:
        (Path(__file__).parent.parent / "docs" / "results" / "fpga_wire.md").write_text(text)


if __name__ == "__main__":
    main()
