"""Cost over sequence and batch: MiniLM in one package for all shapes, one thread.

A part's work is the number of tokens (batch x sequence) for all but attention, and batch x sequence^2 for
attention. The fit is a time a token and a time a pair of tokens, the same for all shapes of a model, with
which the largest relative deviation is least. Times are the least of interleaved samples. The parts are those
of the calls of a profiled run: what a part costs for each unit of its work tells where a deviation is from.
MiniLM knows 512 positions; for longer sequences they are repeated.

    python benchmarks/scaling.py --work out/scaling.jsonl --case dense
    python benchmarks/scaling.py --work out/scaling.jsonl --write
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from encoder_latency import CASES, make
from scipy.optimize import linprog

from espalier.api import compile_model
from espalier.bench.machine import this_machine
from espalier.bench.timing import interleave, pinned
from espalier.runtime.executor import Executor

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "results" / "scaling_minilm_t1.md"
MODEL, INPUTS = "minilm-1024", ("input_ids", "attention_mask", "token_type_ids")
MOST = (32, 1024)
SEQUENCES = (16, 32, 64, 128, 256, 512, 1024)
BATCHES = (1, 2, 4, 8, 16, 32)
SHAPES = tuple(dict.fromkeys([*((1, length) for length in SEQUENCES), *((batch, 128) for batch in BATCHES)]))
"""Batch and sequence."""
REPEAT, BUDGET_S = 60, 6.0
PROFILES = 5
BAR = 0.15
WHY = """
What deviates: a pair of tokens takes the same time from 128 tokens on, all else does not. It takes the least
time a token where activations stay in the L2 cache (512 KB here; 6 KB a token lie between the two layers of
the feed-forward part) and rises as they outgrow it and then the L3 cache (8 MB): a sparse layer reads lines
of 64 bytes here and there, which nothing fetches ahead. The bytes are the same at 90 % as dense, the time to
hide them in is not. At 16 tokens, what a call and a block of rows cost at least is spread over few tokens."""


@dataclass(frozen=True)
class Point:
    """One model at one shape; milliseconds."""

    case: str
    batch: int
    sequence: int
    ms: float
    attention_ms: float

    @property
    def tokens(self) -> int:
        return self.batch * self.sequence

    @property
    def pairs(self) -> int:
        """Pairs of tokens that attend to each other."""
        return self.batch * self.sequence**2


def measured(case: str, models: Path) -> list[Point]:
    """Every shape of SHAPES."""
    most = dict.fromkeys(INPUTS, MOST)
    executor = compile_model(make(MODEL, case, models), max_shape=most, threads=1).package.executor(threads=1)
    inputs = {shape: _inputs(*shape) for shape in SHAPES}
    runs = {str(shape): partial(executor.run, arrays) for shape, arrays in inputs.items()}
    with pinned(1):
        times = interleave(runs, repeat=REPEAT, budget_s=BUDGET_S)
        return [
            Point(case, *shape, times[str(shape)].min, _attention_ms(executor, inputs[shape]))
            for shape in SHAPES
        ]


def _inputs(batch: int, sequence: int) -> dict[str, np.ndarray]:
    ids = np.random.default_rng(0).integers(1000, 20000, (batch, sequence))
    return dict(zip(INPUTS, (ids, np.ones_like(ids), np.zeros_like(ids)), strict=True))


def _attention_ms(executor: Executor, arrays: Mapping[str, np.ndarray]) -> float:
    return min(
        sum(call.milliseconds for call in executor.profile(arrays) if call.kernel.startswith("attention"))
        for _ in range(PROFILES)
    )


def fit(points: list[Point]) -> tuple[float, float]:
    """Milliseconds a token and a pair, not below 0, whose largest relative deviation is the least."""
    work = np.array([[point.tokens, point.pairs] for point in points], float)
    share = work / np.array([[point.ms] for point in points])
    none, one = np.zeros((len(points), 1)), np.ones(len(points))
    # from 1 to the least factor times the measured time, then the middle of that
    found = linprog(
        [0, 0, 1],
        A_ub=np.block([[-share, none], [share, none - 1]]),
        b_ub=np.concatenate([-one, 0 * one]),
    )
    token, pair, factor = map(float, found.x)
    middle = 2 * factor / (1 + factor)
    return token / middle, pair / middle


def report(points: list[Point]) -> Iterator[str]:
    yield "# MiniLM over sequence and batch, one thread"
    yield ""
    yield from (__doc__ or "").strip().split("\n\n    python")[0].split("\n\n", 1)[1].splitlines()
    for case in dict.fromkeys(point.case for point in points):
        own = [point for point in points if point.case == case]
        token, pair = fit(own)
        deviations = [point.ms / (token * point.tokens + pair * point.pairs) - 1 for point in own]
        worst = max(map(abs, deviations))
        yield ""
        yield f"## {case}"
        yield f"{1e3 * token:.2f} us a token, {1e6 * pair:.1f} ns a pair; largest deviation {worst:.1%}"
        yield f"({'within' if worst <= BAR else 'over'} {BAR:.0%})."
        yield ""
        yield "| batch | sequence | ms | fit | deviation | attention ns a pair | all else us a token |"
        yield "|---|---|---|---|---|---|---|"
        for point, deviation in zip(own, deviations, strict=True):
            yield (
                f"| {point.batch} | {point.sequence} | {point.ms:.3f} | {point.ms / (1 + deviation):.3f} "
                f"| {deviation:+.1%} | {1e6 * point.attention_ms / point.pairs:.1f} "
                f"| {1e3 * (point.ms - point.attention_ms) / point.tokens:.2f} |"
            )
    yield from WHY.splitlines()
    yield ""
    yield this_machine(("tvm-espalier", "apache-tvm")).line()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="where measured points are kept")
    parser.add_argument("--models", type=Path, default=ROOT / "out" / "models")
    parser.add_argument("--case", choices=CASES, help="measure this one; its points before are dropped")
    parser.add_argument("--write", action="store_true", help="also write docs/results/scaling_minilm_t1.md")
    options = parser.parse_args()
    points = []
    if options.work.exists():
        points = [Point(**json.loads(line)) for line in options.work.read_text().splitlines()]
    if options.case:
        points = [point for point in points if point.case != options.case]
        points += measured(options.case, options.models)
        options.work.write_text("".join(f"{json.dumps(asdict(point))}\n" for point in points))
    text = "\n".join(report(points)) + "\n"
    print(text)
    if options.write:
        PAGE.write_text(text)
        print(f"wrote {PAGE}", file=sys.stderr)


if __name__ == "__main__":
    main()
