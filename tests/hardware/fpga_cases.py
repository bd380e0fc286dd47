"""Random programs of the accelerator with what they must give, from numpy."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

import numpy as np
import pytest

from espalier.codegen.fpga.program import Builder, Program, Tensor
from espalier.codegen.fpga.tokens import check_tokens, with_tokens
from espalier.schedules.fpga.windows import sparse_words, to_bytes
from espalier.targets.fpga import isa, semantics
from espalier.targets.fpga.geometry import Geometry
from espalier.targets.fpga.isa import Instruction
from espalier.targets.fpga.layout import from_tiles, param_words, to_tiles
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


def decoder_case(
    rng: np.random.Generator, g: Geometry, tokens: int, k: int, rows: int, density: float
) -> Case:
    """A layer with a table for each block of rows, then one whose result goes straight out in parts."""
    x = rng.integers(-128, 128, (tokens, k)).astype(np.int8)
    b = Builder(g)
    t = b.input(tokens, k)
    weight, mask, bias, scale = random_linear(rng, k, k, 1.0)
    tables = rng.integers(-128, 128, (-(-k // g.pes), 256)).astype(np.int8)
    table = np.repeat(tables, g.pes, 0)[:k]
    h = b.linear(t, weight, mask, bias, scale, "TABLE", table)
    nh = semantics.linear(x, weight, bias, scale, "TABLE", table)
    weight, mask, bias, scale = random_linear(rng, rows, k, density)
    b.linear_output(h, weight, mask, bias, scale)
    # as Builder.output would have written it
    out = Tensor(0, -(-rows // g.banks), t.tiles, tokens, rows)
    return Case(b.finish(), (x,), ((out, semantics.linear(nh, weight, bias, scale)),))


def random_case(seed: int, g: Geometry) -> Case:
    """An encoder layer whose sizes do not divide anything."""
    rng = np.random.default_rng(seed)
    heads = int(rng.integers(1, 4))
    width = heads * int(rng.integers(1, 14))
    return encoder_case(rng, g, int(rng.integers(1, 40)), width, int(rng.integers(1, 60)), heads)


needs_verilator = pytest.mark.skipif(
    shutil.which("verilator") is None, reason="verilator is not installed: apt-get install verilator"
)


def random_program(rng: np.random.Generator, g: Geometry):
    """A sound stream of random instructions, random external memory, a timing.

    Every field is drawn from what the instruction allows; tokens are put in by need, so the result does not
    depend on time. What would depend on undefined shifts or on words never loaded is fixed beforehand.
    """
    beats = 4096
    memory = rng.integers(0, 256, 4 * beats * g.bus).astype(np.uint8)
    # region 0 holds sound weight words and parameters at known places
    words = sparse_words(
        rng.integers(-128, 128, (g.pes, 80)).astype(np.int8), rng.random((g.pes, 80)) < 0.4, g
    )
    image = to_bytes(words, g).reshape(-1)
    memory[: len(image)] = image
    beat = len(image) // g.bus
    entries = isa.pack_params(
        "linear",
        bias=rng.integers(-(1 << 20), 1 << 20, 64),
        mul=rng.integers(0, 1 << 16, 64),
        shift=rng.integers(0, 48, 64),
    )
    memory[beat * g.bus : beat * g.bus + 512] = param_words(entries, g).view(np.uint8).reshape(-1)[:512]
    mem = isa.names("memory")
    par_words = 64 // g.params_per_word
    body = [
        _load(mem["ACT"], 0, 0, g.act_depth, region=1),
        _load(mem["WGT"], 0, 0, words.count),
        _load(mem["WGT_DENSE"], words.count, 1024, g.wgt_depth - words.count),
        _load(mem["PAR"], 0, beat, par_words),
        _load(mem["PAR"], par_words, 2048, g.par_depth - par_words),
        _load(mem["TAB"], 0, 3000, 2),
        Instruction("SOFTMAX", {"tiles": g.tile_depth, "count": 1, "input": 0, "output": 0}),
        _relay(),
    ]
    for _ in range(int(rng.integers(3, 25))):
        body.append(_random_instruction(rng, g, words.count, par_words, beats))
        body.append(_relay())
    body.append(Instruction("STORE", {"region": 3, "count": g.act_depth, "rows": 1}))
    program = with_tokens(body, g)
    check_tokens(program, g)
    timing = Timing(int(rng.integers(1, 100)), int(rng.integers(1, 4)), int(rng.integers(1, 4)))
    return isa.assemble(program), memory, timing


def _load(memory, sram, dram, count, region=0):
    values = {"mem": memory, "region": region, "sram": sram, "dram": dram, "count": count, "rows": 1}
    return Instruction("LOAD", values)


def _relay():
    """A compute instruction over the whole memory, so that tokens can pass between loads and stores."""
    strides = dict.fromkeys(("input_stride", "residual_stride", "output_stride"), 1023)
    return Instruction("NORM", {"tiles": 3, "count": 8, "shift": 7, **strides})


def _random_instruction(rng, g, sparse_count, par_words, beats):
    def below(n):
        return int(rng.integers(0, n))

    half = g.act_depth // 2
    low, high = (0, half) if below(2) else (half, 0)
    tiles = 1 + below(12)
    tensors = {
        "input": low + below(200),
        "input_stride": 20 + below(20),
        "output": high + below(200),
        "output_stride": below(60),
    }
    match ["LINEAR", "LINEAR", "TURN", "NORM", "SOFTMAX", "LOAD", "STORE"][below(7)]:
        case "LINEAR":
            sparse = below(2)
            first = below(g.pes)
            windows = sparse_count if sparse else 1 + below(20 * g.passes)
            values = {
                "sparse": sparse,
                "activation": below(3),
                "table": below(2),
                "token_scale": below(2),
                "windows": windows,
                "tiles": tiles,
                "weights": 0 if sparse else sparse_count + below(g.wgt_depth - sparse_count - windows),
                **tensors,
                "params": below(par_words - g.pes // g.params_per_word + 1),
                "row_first": first,
                "row_end": first + 1 + below(g.pes - first),
            }
            return Instruction("LINEAR", values)
        case "TURN":
            kind = below(2)
            slots = 1 + below(g.pes // g.banks if kind else 10)
            tiles = 1 + below(tiles if kind else g.pes // g.tokens)
            words = tiles * g.tokens // g.lanes if kind else slots * g.passes
            weights = sparse_count + below(g.wgt_depth - sparse_count - words)
            values = {
                "kind": kind,
                "slots": slots,
                "tiles": tiles,
                "weights": weights,
                "first": below(9),
                "end": below(60),
            }
            return Instruction(
                "TURN", {**values, "input": tensors["input"], "input_stride": tensors["input_stride"]}
            )
        case "NORM":
            count = 1 + below(20 * g.banks)
            values = {
                "stats": below(2),
                "shift": 7 + below(25),
                "tiles": tiles,
                "count": count,
                **tensors,
                "residual": low + below(200),
                "residual_stride": below(40),
                "params": below(g.par_depth - 1 - -(-count // g.params_per_word) - g.banks),
            }
            return Instruction("NORM", values)
        case "SOFTMAX":
            return Instruction(
                "SOFTMAX", {"table": below(2), "tiles": tiles, "count": 1 + below(20 * g.banks), **tensors}
            )
        case "LOAD":
            rows, count = 1 + below(4), 1 + below(8)
            values = {
                "region": 1,
                "sram": below(g.act_depth - 32),
                "dram": below(500),
                "count": count,
                "rows": rows,
            }
            return Instruction("LOAD", {**values, "stride": below(64)})
        case _:
            rows, count = 1 + below(4), 1 + below(8)
            values = {
                "region": 2,
                "sram": below(g.act_depth - 32),
                "dram": below(500),
                "count": count,
                "rows": rows,
            }
            return Instruction("STORE", {**values, "stride": below(64)})
