"""What pruning gains on the accelerator, and how far its latency model is off, by cycles of the RTL.

Three tables: linear layers of 128 tokens at every sparsity against dense on the same array, for geometries of
three boards; single layers under three memories against the closed form; whole encoder layers against it.
Markdown on stdout; --write also puts it into docs/results/fpga_rtl.md. Needs Verilator.

    python benchmarks/fpga_rtl.py --write
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from espalier.bench.accelerator import (
    Layer,
    cases,
    encoder_program,
    layer_cycles,
    layer_program,
    layer_words,
    simulate,
)
from espalier.targets.fpga import encoder, latency, search
from espalier.targets.fpga.boards import boards
from espalier.targets.fpga.encoder import DENSE, Pruning
from espalier.targets.fpga.geometry import Geometry
from espalier.targets.fpga.simulator import Timing

TOKENS = 128
BOARDS = ("pynq-z2", "zcu104", "alveo-u200")
SHAPES = ((800, 800), (384, 1536), (1200, 312))
SPARSITIES = (0.5, 0.75, 0.9, 0.95)
HELD = (
    Geometry(8, 2, 4, 4, 2, 16, 8, 2048, 256, 128, 32),
    Geometry(16, 4, 8, 8, 4, 16, 8, 4096, 512, 256, 32),
    Geometry(16, 4, 8, 8, 8, 32, 8, 4096, 512, 256, 32),
)
"""Geometries of the agreement; what the standard ones differ in is larger in each of them."""


def pruning(sparsity: float, g: Geometry) -> Pruning:
    """Half of every vector, in as many columns as that leaves."""
    return Pruning(columns=(1 - sparsity) * 2, n=g.banks // 2)


def gains() -> Iterator[str]:
    """Rows of the first table."""
    yield "| board | geometry | K x N | sparsity | cycles | x dense | of 1 / density | model | bound by |"
    yield "|---" * 9 + "|"
    for name in BOARDS:
        board = boards()[name]
        g = search.standard(board)
        # what is measured is the array: all of a layer lies on chip
        g = replace(g, act_depth=max(g.act_depth, 4096))
        timing = board.timing(g)
        for k, n in SHAPES:
            dense = 0
            for sparsity in (0.0, *SPARSITIES):
                layer = Layer(TOKENS, k, n, pruning(sparsity, g) if sparsity else DENSE)
                cycles = simulate(layer_program(layer, g), timing).counters["linear"]
                dense = dense or cycles
                density = _density(layer, g)
                gain = dense / cycles
                predicted = latency.linear(
                    "layer", TOKENS, [layer_words(layer, g)] * -(-n // g.pes), sparsity > 0, g, timing
                ).compute
                yield (
                    f"| {name} | {g.label} | {k} x {n} | {100 * sparsity:.0f} % | {cycles:,} | {gain:.2f} "
                    f"| {gain * density:.2f} | {predicted / cycles - 1:+.1%} | {_bound(layer, g, timing)} |"
                )


def _density(layer: Layer, g: Geometry) -> float:
    """Kept places over all: of a dense layer also those that fill its last slot."""
    return layer_words(layer, g) / latency.dense_words(layer.k, g)


def _bound(layer: Layer, g: Geometry, timing: Timing) -> str:
    """What takes longest for a block of rows: the array's windows, the drain of its sums, or the memory."""
    words, sparse = layer_words(layer, g), layer.pruning.n is not None
    tiles = latency.tiles_of(layer.tokens, g)
    beats = words * g.beats("WGT" if sparse else "WGT_DENSE") + -(-g.pes // g.params_per_word) * g.beats(
        "PAR"
    )
    times = {"array": tiles * words, "drain": tiles * g.pes // g.width, "memory": beats / timing.rate}
    return max(times, key=lambda what: times[what])


def agreement() -> Iterator[str]:
    """Rows of the second table."""
    yield "| geometry | cases | mean error | worst |"
    yield "|---|---|---|---|"
    everything: list[float] = []
    for g in HELD:
        errors = []
        for layer, timing in cases(g):
            cycles = simulate(layer_program(layer, g), timing).counters["cycles"]
            errors.append(abs(layer_cycles(layer, g, timing) / cycles - 1))
        yield f"| {g.label} | {len(errors)} | {statistics.mean(errors):.1%} | {max(errors):.1%} |"
        everything += errors
    yield f"| all | {len(everything)} | {statistics.mean(everything):.1%} | {max(everything):.1%} |"


def encoders() -> Iterator[str]:
    """Rows of the third table."""
    yield "| board | geometry | encoder layer | sparsity | cycles | model | x dense | conflicts |"
    yield "|---" * 8 + "|"
    for name in BOARDS[1:]:
        board = boards()[name]
        g = search.standard(board)
        timing = board.timing(g)
        for model in (encoder.TRANSFORMER, encoder.TINYBERT):
            one = replace(model, layers=1)
            dense = 0
            for sparsity in (0.0, 0.75, 0.9):
                how = pruning(sparsity, g) if sparsity else DENSE
                counters = simulate(encoder_program(one, TOKENS, how, g), timing).counters
                cycles = counters["cycles"]
                dense = dense or cycles
                predicted = latency.total(encoder.costs(one, TOKENS, how, g, timing), timing)
                yield (
                    f"| {name} | {g.label} | {model.name} | {100 * sparsity:.0f} % | {cycles:,} "
                    f"| {predicted / cycles - 1:+.1%} | {dense / cycles:.2f} | {counters['conflicts']} |"
                )


def main() -> None:
    """Print the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="write docs/results/fpga_rtl.md as well")
    args = parser.parse_args()
    lines = [
        "# The accelerator's RTL: what pruning gains, and what the latency model says",
        "",
        "Cycles are those of the RTL, simulated by Verilator: `python benchmarks/fpga_rtl.py --write`. HP is",
        "bank-balanced, half of each vector of 8. `model` is the closed form of `targets/fpga/latency.py`",
        "against these cycles, at each board's memory.",
        "",
        f"## Linear layers, {TOKENS} tokens, against dense on the same array",
        "",
        "`x dense` is to be held against 1 / density, the places that are kept. `bound by` says what takes",
        "longest for a block of rows: the array, which takes a window of weights a cycle; the drain of its",
        "sums, pes / width cycles a tile however few the windows; or the weights' way from memory.",
        "",
        *gains(),
        "",
        "## The closed form, single layers under three memories",
        "",
        "Dense and HP of three densities, tokens and shapes that divide and that do not; memory of 40 and of",
        "120 cycles' latency at a beat a cycle, and of a beat every four cycles. Whole programs, loads and",
        "stores of the activations included.",
        "",
        *agreement(),
        "",
        f"## Whole encoder layers, {TOKENS} tokens",
        "",
        "`conflicts` counts cycles in which the array could not read a bank that it asked for.",
        "",
        *encoders(),
    ]
    text = "\n".join(lines) + "\n"
    print(text, end="")
    if args.write:
        (Path(__file__).parent.parent / "docs" / "results" / "fpga_rtl.md").write_text(text)


if __name__ == "__main__":
    main()
