"""Programs of random layers for the FPGA accelerator: run on the RTL, and predicted."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from espalier.codegen.fpga.program import Builder, Program, Tensor
from espalier.schedules.fpga.windows import slots_of
from espalier.targets.fpga import latency
from espalier.targets.fpga.encoder import DENSE, Encoder, Pruning
from espalier.targets.fpga.geometry import Geometry
from espalier.targets.fpga.run import run_stream
from espalier.targets.fpga.semantics import NormParams, Scale
from espalier.targets.fpga.simulator import Result, Timing

HEIGHT = 32
"""Rows of a block of HP, where the array has no more."""
TIMINGS = (Timing(), Timing(latency=120), Timing(latency=40, beats=1, cycles=4))


@dataclass(frozen=True)
class Layer:
    """A linear layer of `rows x k` weights for so many tokens."""

    tokens: int
    k: int
    rows: int
    pruning: Pruning = DENSE

    @property
    def label(self) -> str:
        """As in 128 x 312 x 1200."""
        return f"{self.tokens} x {self.k} x {self.rows}"


def cases(g: Geometry) -> Iterator[tuple[Layer, Timing]]:
    """The layers and memories that the latency model is held against the RTL with."""
    t, v, p = g.tokens, g.banks, g.pes
    prunings = [DENSE, *(Pruning(columns, g.lanes) for columns in (1.0, 0.5, 0.2))]
    shapes = ((16 * v, 5 * p), (32 * v, 8 * p), (15 * v - 2, 20 * p + 1))
    for tokens, (k, rows), pruning, timing in itertools.product(
        (4 * t, 15 * t + 1), shapes, prunings, TIMINGS
    ):
        yield Layer(tokens, k, rows, pruning), timing


def balanced_mask(rng: np.random.Generator, rows: int, k: int, pruning: Pruning, g: Geometry) -> np.ndarray:
    """bool `[rows, k]` of bank-balanced HP: a block keeps as many columns of every bank."""
    slots = slots_of(k, g)
    kept = kept_slots(k, pruning, g)
    height = max(g.pes, HEIGHT)
    mask = np.zeros((rows, slots * g.banks), bool)
    for row in range(0, rows, height):
        here = mask[row : row + height]
        order = np.argsort(rng.random((g.banks, slots)))[:, :kept]  # some slots of every bank
        columns = np.sort(order, 1).T * g.banks + np.arange(g.banks)  # [window, bank]
        banks = np.argsort(rng.random((len(here), kept, g.banks)))[..., : pruning.n]
        np.put_along_axis(here, np.take_along_axis(columns[None], banks, 2).reshape(len(here), -1), True, 1)
    return mask[:, :k]


def kept_slots(k: int, pruning: Pruning, g: Geometry) -> int:
    """Columns that a block keeps of each bank."""
    return min(slots_of(k, g), max(1, -(-round(k * pruning.columns) // g.banks)))


def _weights(rng: np.random.Generator, rows: int, k: int, pruning: Pruning, g: Geometry):
    """int8 weights, their mask, bias and scale."""
    weight = rng.integers(-127, 128, (rows, k)).astype(np.int8)
    mask = None
    if pruning.n is not None:
        mask = balanced_mask(rng, rows, k, pruning, g)
        weight[~mask] = 0
    shift = 21 + int(np.log2(max(1.0, (pruning.density(g.banks) * k) ** 0.5)))
    scale = Scale(rng.integers(10_000, 65_536, rows), np.full(rows, shift))
    return weight, mask, rng.integers(-50_000, 50_000, rows), scale


def layer_program(layer: Layer, g: Geometry) -> Program:
    """The layer with random weights."""
    b = Builder(g)
    x = b.input(layer.tokens, layer.k)
    b.output(b.linear(x, *_weights(np.random.default_rng(0), layer.rows, layer.k, layer.pruning, g)))
    return b.finish()


def layer_words(layer: Layer, g: Geometry) -> int:
    """Weight words of a block of the layer's rows."""
    if layer.pruning.n is None:
        return latency.dense_words(layer.k, g)
    columns = g.banks * kept_slots(layer.k, layer.pruning, g)
    return latency.hp_words(g.banks * slots_of(layer.k, g), columns, layer.pruning.n, g)


def layer_cycles(layer: Layer, g: Geometry, timing: Timing) -> float:
    """What the latency model says of `layer_program`."""
    blocks = [layer_words(layer, g)] * -(-layer.rows // g.pes)
    costs = [
        latency.transfer("in", "load", layer.tokens, layer.k, g, timing),
        latency.linear("linear", layer.tokens, blocks, layer.pruning.n is not None, g, timing),
        latency.transfer("out", "store", layer.tokens, layer.rows, g, timing),
    ]
    return latency.total(costs, timing)


def encoder_program(model: Encoder, tokens: int, pruning: Pruning, g: Geometry) -> Program:
    """An encoder of random weights, without a decoder."""
    rng = np.random.default_rng(0)
    b = Builder(g)
    exponential = np.round(127 * np.exp(-np.arange(256) / 20)).astype(np.int8)
    table = rng.integers(-128, 128, 256).astype(np.int8)

    def linear(x: Tensor, rows: int, activation: tuple = ("NONE", None)) -> Tensor:
        return b.linear(x, *_weights(rng, rows, x.features, pruning, g), *activation)

    def norm(x: Tensor, residual: Tensor) -> Tensor:
        one, zero = np.array(256), np.array(0)
        params = NormParams(a=one, b=one, gamma=np.array(1000), beta=zero, eps=1, shift=15)
        return b.norm(x, residual, params, stats=True)

    x = b.input(tokens, model.width)
    for _ in range(model.layers):
        q, k, v = (linear(x, model.width) for _ in range(3))
        context = b.attention(q, k, v, model.heads, Scale(np.int64(40_000), np.int64(24)), exponential)
        b.free(q, k, v)
        out = linear(context, model.width)
        b.free(context)
        x1 = norm(out, x)
        b.free(out, x)
        hidden = linear(x1, model.hidden, ("TABLE", table) if model.tables else ("RELU", None))
        back = linear(hidden, model.width)
        b.free(hidden)
        x = norm(back, x1)
        b.free(back, x1)
    b.output(x)
    return b.finish()


def simulate(program: Program, timing: Timing | None = None) -> Result:
    """Run a program on the RTL, on random activations."""
    x = np.random.default_rng(1).integers(-128, 128, program.input_bytes).astype(np.int8)
    p = program
    return run_stream("rtl", p.geometry, p.stream, p.constants, [x], p.output_bytes, timing).result
