"""A packed matrix as bytes, and back.

Layout: `ESPK`, the header's length (uint32, little endian), the header (JSON), the payload, and the positions
of pruned negative zeros (int64 each, little endian; nearly always none). The payload has exactly
ceil(bits / 8) bytes: the size that `Packed.bits` tells is the size it takes.
"""

from __future__ import annotations

import json
import struct
from dataclasses import asdict
from typing import Any

import numpy as np

from espalier.sparsity.backbone import BPPP, PackedBPPP
from espalier.sparsity.bitstream import BitReader, BitWriter
from espalier.sparsity.block import Block, PackedBlock
from espalier.sparsity.columns import BP, PackedBP
from espalier.sparsity.hierarchical import HP, NM, PackedHP
from espalier.sparsity.patterns import PP, PackedPP
from espalier.sparsity.plain import Dense, PackedDense, PackedZero, Zero
from espalier.sparsity.structure import Packed, ceil_div, require
from espalier.sparsity.unstructured import PackedUnstructured, Unstructured

MAGIC = b"ESPK"
LARGEST = 2**31  # weights of a matrix; a header that states more is damaged

KINDS: dict[str, tuple[Any, type[Packed]]] = {
    "dense": (Dense, PackedDense),
    "zero": (Zero, PackedZero),
    "nm": (NM, PackedHP),
    "hp": (HP, PackedHP),
    "bp": (BP, PackedBP),
    "pp": (PP, PackedPP),
    "bp+pp": (BPPP, PackedBPPP),
    "block": (Block, PackedBlock),
    "unstructured": (Unstructured, PackedUnstructured),
}
NAMES = {structure: name for name, (structure, _) in KINDS.items()}


def payload(packed: Packed) -> bytes:
    """The bit stream alone: ceil(bits / 8) bytes."""
    out = BitWriter()
    packed.write(out)
    return out.to_bytes()


def to_bytes(packed: Packed) -> bytes:
    """Header, payload and negative zeros."""
    header = {
        "structure": NAMES[type(packed.structure)],
        "parameters": asdict(packed.structure),
        "shape": list(packed.shape),
        "dtype": packed.dtype.name,
        "negative_zeros": int(packed.negative_zeros.size),
    }
    head = json.dumps(header, sort_keys=True).encode()
    zeros = packed.negative_zeros.astype("<i8").tobytes()
    return MAGIC + struct.pack("<I", len(head)) + head + payload(packed) + zeros


def from_bytes(data: bytes) -> Packed:
    """What `to_bytes` wrote; ValueError for anything else."""
    require(data[:4] == MAGIC and len(data) >= 8, "packed matrix: does not begin with ESPK")
    (length,) = struct.unpack("<I", data[4:8])
    require(len(data) >= 8 + length, "packed matrix: the header is truncated")
    try:
        header = json.loads(data[8 : 8 + length])
        structure_kind, kind = KINDS[header["structure"]]
        structure = structure_kind(**header["parameters"])
        rows, columns = (int(size) for size in header["shape"])
        dtype = np.dtype(header["dtype"])
        zeros = int(header["negative_zeros"])
        sound = dtype.kind in "fiu" and min(rows, columns) >= 1 and rows * columns <= LARGEST and zeros >= 0
    except (KeyError, TypeError, AttributeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"packed matrix: the header is damaged ({error})") from error
    require(sound, "packed matrix: the header states an impossible shape, dtype or count")
    body = data[8 + length :]
    end = len(body) - 8 * zeros
    require(end >= 0, "packed matrix: truncated")
    if not isinstance(structure, PP | BPPP | Block):
        stated = ceil_div(structure.bits((rows, columns), dtype.itemsize * 8), 8)
        require(stated == end, f"packed matrix: {stated} bytes expected, got {end}")
    source = BitReader(body[:end])
    packed = kind.read(structure, (rows, columns), dtype, source)
    require(ceil_div(source.position, 8) == end, "packed matrix: bytes left over")
    if not zeros:
        return packed
    positions = np.frombuffer(body[end:], "<i8").astype(np.int64)
    inside = bool(((positions >= 0) & (positions < rows * columns)).all())
    require(inside and dtype.kind == "f", "packed matrix: a negative zero lies outside the matrix")
    return packed.with_negative_zeros(positions)
