"""Encoders as shapes, and what each of their operations costs on a geometry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from espalier.targets.fpga import latency
from espalier.targets.fpga.geometry import Geometry
from espalier.targets.fpga.latency import Cost
from espalier.targets.fpga.simulator import Timing


@dataclass(frozen=True)
class Pruning:
    """Bank-balanced HP: the fraction of columns kept, and n of every `banks` weights. None of them: dense."""

    columns: float = 1.0
    n: int | None = None

    def density(self, banks: int) -> float:
        """Kept weights over all."""
        return self.columns * (1.0 if self.n is None else self.n / banks)


DENSE = Pruning()


@dataclass(frozen=True)
class Encoder:
    """A post-norm encoder of a sequence; `vocabulary` rows of a last, linear decoder, or none."""

    name: str
    layers: int
    width: int
    hidden: int
    heads: int
    vocabulary: int = 0
    tables: bool = True
    """The activation is a table (GELU), one a block of rows; else it takes none (ReLU)."""

    @property
    def weights(self) -> int:
        """Of the linear layers."""
        each = 4 * self.width * self.width + 2 * self.width * self.hidden
        return self.layers * each + self.vocabulary * self.width


TRANSFORMER = Encoder("transformer-800", 2, 800, 200, 4, tables=False)
"""The group's Transformer for WikiText-2: emsize 800, nhid 200, 2 layers, 4 heads; without the decoder."""
LANGUAGE_MODEL = replace(TRANSFORMER, name="transformer-800-lm", vocabulary=28_785)
"""The same with its linear decoder."""
TINYBERT = Encoder("tinybert-4", 4, 312, 1200, 12)
MINILM = Encoder("minilm-6", 6, 384, 1536, 12)


def activation_words(encoder: Encoder, tokens: int, g: Geometry) -> int:
    """Activation words of the widest place of a layer: input, q, k, v, context and scores; or the hidden."""
    tiles = latency.tiles_of(tokens, g)

    def slots(features: int) -> int:
        return -(-features // g.banks)

    attention = 5 * slots(encoder.width) + slots(tokens)
    feed_forward = 3 * slots(encoder.width) + slots(encoder.hidden)
    return tiles * max(attention, feed_forward)


def costs(encoder: Encoder, tokens: int, pruning: Pruning, g: Geometry, timing: Timing) -> list[Cost]:
    """Every operation in order, the sequence in and out included."""
    width, hidden = encoder.width, encoder.hidden

    def linear(name: str, rows: int, k: int, kind: Callable[..., Cost] = latency.linear) -> Cost:
        if pruning.n is None:
            words = latency.dense_words(k, g)
        else:
            words = latency.hp_words(k, max(g.banks, round(k * pruning.columns)), pruning.n, g)
        macs = round(rows * k * pruning.density(g.banks) * tokens)
        blocks = [words] * -(-rows // g.pes)
        return kind(name, tokens, blocks, pruning.n is not None, g, timing, macs)

    out = [latency.transfer("input", "load", tokens, width, g, timing)]
    for n in range(encoder.layers):
        out += [linear(f"{n}.{name}", width, width) for name in ("query", "key", "value")]
        out += latency.attention(f"{n}.attention", tokens, width, encoder.heads, g)
        out += [linear(f"{n}.output", width, width), latency.norm(f"{n}.norm1", tokens, width, g, stats=True)]
        activated = partial(latency.linear, tables=encoder.tables)
        out += [linear(f"{n}.hidden", hidden, width, activated), linear(f"{n}.back", width, hidden)]
        out += [latency.norm(f"{n}.norm2", tokens, width, g, stats=True)]
    if encoder.vocabulary:
        return [*out, linear("decoder", encoder.vocabulary, width, latency.streamed)]
    return [*out, latency.transfer("output", "store", tokens, width, g, timing)]
