"""Random programs of the accelerator with what they must give, from numpy."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

import numpy as np
import pytest

from espalier.codegen.fpga.program import Builder, Program, Tensor
from espalier.schedules.fpga.layout import from_tiles, to_tiles
from espalier.targets.fpga import semantics
from espalier.targets.fpga.geometry import Geometry
from espalier.targets.fpga.run import run_stream
from espalier.targets.fpga.semantics import NormParams, Scale
from espalier.targets.fpga.simulator import Result, Timing

SMALL = Geometry(8, 2, 4, 4, 2, 16, 8, 2048, 256, 128, 32)
BASE = Geometry(16, 4, 8, 8, 4, 16, 8, 4096, 512, 256, 32)


@dataclass(frozen=True)
class Case:
    """A program, its inputs and the tensors it must write."""

    program: Program
    inputs: tuple[np.ndarray, ...]
    outputs: tuple[tuple[Tensor, np.ndarray], ...]

    def run(self, kind, timing: Timing | None = None) -> Result:
        """Run, compare every output bit for bit, and give the counters."""
        p = self.program
        g = p.geometry
        tiles = [to_tiles(x, g) for x in self.inputs]
        run = run_stream(kind, g, p.stream, p.constants, tiles, p.output_bytes, timing)
        at = 0
        for tensor, expected in self.outputs:
            size = tensor.words * g.word_bytes
            shape = (tensor.tiles, tensor.stride, g.banks, g.tokens)
            got = from_tiles(
                run.output[at : at + size].view(np.int8).reshape(shape), tensor.tokens, tensor.features
            )
            np.testing.assert_array_equal(got, expected)
            at += size
        return run.result


def exponential() -> np.ndarray:
    """A table for SOFTMAX."""
    return np.round(127 * np.exp(-np.arange(256) / 20)).astype(np.int8)


def random_linear(rng: np.random.Generator, n: int, k: int, density: float):
    """A matrix with its mask (None when dense), bias and scale that give int8 of a fair spread."""
    weight = rng.integers(-128, 128, (n, k)).astype(np.int8)
    mask = rng.random((n, k)) < density
    weight[~mask] = 0
    shift = 21 + int(np.log2(max(1.0, (density * k) ** 0.5)))
    scale = Scale(rng.integers(10_000, 65_536, n), np.full(n, shift, np.int64))
    return weight, None if density >= 1 else mask, rng.integers(-50_000, 50_000, n), scale


def random_norm(rng: np.random.Generator, k: int, shift: int) -> NormParams:
    """Parameters of NORM over the whole range that makes sense."""
    return NormParams(
        a=rng.integers(-4000, 4000, k),
        b=rng.integers(-4000, 4000, k),
        gamma=rng.integers(-2000, 2000, k),
        beta=rng.integers(-(1 << 14), 1 << 14, k),
        eps=int(rng.integers(1, 1 << 40)),
        shift=shift,
    )


def encoder_case(
    rng: np.random.Generator, g: Geometry, tokens: int, width: int, hidden: int, heads: int
) -> Case:
    """A whole encoder layer of random weights and every kind of operation."""
    x = rng.integers(-128, 128, (tokens, width)).astype(np.int8)
    exp, gelu = exponential(), rng.integers(-128, 128, 256).astype(np.int8)
    b = Builder(g)
    t = b.input(tokens, width)
    density = rng.choice([0.1, 0.3, 0.6, 1.0], 6)

    def apply(tensor, value, n, density, activation="NONE", table=None):
        weight, mask, bias, scale = random_linear(rng, n, value.shape[1], density)
        return (
            b.linear(tensor, weight, mask, bias, scale, activation, table),
            semantics.linear(value, weight, bias, scale, activation, table),
        )

    (q, nq), (k, nk), (v, nv) = (apply(t, x, width, d) for d in density[:3])
    scale = Scale(np.int64(40_000), np.int64(24))
    c = b.attention(q, k, v, heads, scale, exp)
    size = width // heads
    parts = []
    for head in range(heads):
        s = slice(head * size, head * size + size)
        e, by_token = semantics.softmax(semantics.linear(nq[:, s], nk[:, s], np.int64(0), scale), exp)
        parts.append(semantics.linear(e, nv[:, s].T, np.int64(0), by_token))
    nc = np.concatenate(parts, 1)
    b.free(q, k, v)
    o, no = apply(c, nc, width, density[3])
    params = random_norm(rng, width, 15)
    n1, nn1 = b.norm(o, t, params, stats=True), semantics.norm(no, x, params, stats=True)
    f, nf = apply(n1, nn1, hidden, density[4], "TABLE", gelu)
    y, ny = apply(f, nf, width, density[5], "RELU")
    add = random_norm(rng, width, 17)
    n2, nn2 = b.norm(y, n1, add, stats=False), semantics.norm(ny, nn1, add, stats=False)
    for tensor in (c, n1, n2):
        b.output(tensor)
    return Case(b.finish(), (x,), ((c, nc), (n1, nn1), (n2, nn2)))


def random_case(seed: int, g: Geometry) -> Case:
    """An encoder layer whose sizes do not divide anything."""
    rng = np.random.default_rng(seed)
    heads = int(rng.integers(1, 4))
    width = heads * int(rng.integers(1, 14))
    return encoder_case(rng, g, int(rng.integers(1, 40)), width, int(rng.integers(1, 60)), heads)


needs_verilator = pytest.mark.skipif(
    shutil.which("verilator") is None, reason="verilator is not installed: apt-get install verilator"
)
