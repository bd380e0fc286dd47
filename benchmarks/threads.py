"""Two threads against one, MiniLM at 128 tokens, in Espalier and in ONNX Runtime.

Every runtime, model and number of threads is a process of its own, so that nobody's waiting threads disturb
the others; they take turns. Ratios are of medians. "two processes" tells of the machine: how much more two
processes of one thread do at once than one alone. They have weights of their own in shared caches, so that
threads of one process can gain more. Where the CPUs were two threads of one core both would be far below 2.

"busiest thread" is the share of the linear layers' multiply-adds (weights that are not zero) that the thread
with the most of them has, layer by layer: 50 % is even. Weights are random ones of each layer's structure.

    python benchmarks/threads.py --cases dense,hp90,hp90-g4 --write
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

import numpy as np
from encoder_latency import CASES, make
from models import MODELS

from espalier.bench.inputs import model_inputs
from espalier.bench.machine import this_machine
from espalier.bench.peers import PEERS
from espalier.passes.frontend import read_model
from espalier.schedules import LinearKernel
from espalier.schedules.x86.tile_linear import TileLinear
from espalier.search.measure import packed
from espalier.targets.host import host
from espalier.tuning import estimator, model_tasks

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "results" / "threads_minilm_s128.md"
MODEL, SEQUENCE, THREADS = "minilm", 128, 2
RUNTIMES = ("espalier", "onnxruntime")
SAMPLE_S = 0.2
ROUNDS = 9


def serve(pipe: Connection, path: Path, runtime: str, threads: int) -> None:
    """Loads a model; then a sample's milliseconds a call for everything that comes through the pipe."""
    inputs = model_inputs(read_model(path), MODELS[MODEL].shapes(SEQUENCE))
    run = PEERS[runtime].load(path, inputs, threads)
    run()
    pipe.send("ready")
    while pipe.recv():
        run()
        calls, start = 0, time.perf_counter()
        while (spent := time.perf_counter() - start) < SAMPLE_S:
            run()
            calls += 1
        pipe.send(1e3 * spent / calls)


@dataclass
class Contestant:
    """A process that runs one model."""

    pipe: Connection
    process: multiprocessing.process.BaseProcess
    samples: list[float] = field(default_factory=list)

    @classmethod
    def start(cls, path: Path, runtime: str, threads: int) -> Contestant:
        ours, theirs = multiprocessing.Pipe()
        # a fresh interpreter: pools of threads do not survive a fork
        process = multiprocessing.get_context("spawn").Process(
            target=serve, args=(theirs, path, runtime, threads), daemon=True
        )
        process.start()
        ours.recv()
        return cls(ours, process)


@dataclass(frozen=True)
class Row:
    """A model in a runtime: milliseconds on one thread, on THREADS, and of one of two processes at once."""

    case: str
    runtime: str
    one: float
    two: float
    at_once: float


def rows(cases: Sequence[str], models: Path) -> Iterator[Row]:
    for case, runtime in product(cases, RUNTIMES):
        path = make(MODEL, case, models)
        alone, twin, pair = (Contestant.start(path, runtime, threads) for threads in (1, 1, THREADS))
        at_once: list[float] = []
        for _ in range(ROUNDS):
            for one in (alone, pair):
                one.pipe.send(True)
                one.samples.append(one.pipe.recv())
            for one in (alone, twin):
                one.pipe.send(True)
            at_once += [one.pipe.recv() for one in (alone, twin)]
        for one in (alone, twin, pair):
            one.pipe.send(False)
            one.process.join()
        yield Row(case, runtime, median(alone.samples), median(pair.samples), median(at_once))


def busiest(path: Path) -> float:
    """The share of the multiply-adds that the thread with the most has, over all linear layers."""
    cpu = host()
    shapes = MODELS[MODEL].shapes(SEQUENCE)
    most = total = 0.0
    for task in model_tasks(path, cpu, shapes, None, "float32", THREADS):
        kernel = estimator(cpu, ()).estimates(task.bases, task.tokens, THREADS)[0].kernel
        jobs = _jobs(kernel, task.tokens)
        each = -(-len(jobs) // THREADS)
        shares = [jobs[first : first + each].sum() for first in range(0, len(jobs), each)]
        most += task.count * max(shares)
        total += task.count * jobs.sum()
    return most / total


def _jobs(kernel: LinearKernel, tokens: int) -> np.ndarray:
    """Multiply-adds of each turn of a kernel's parallel loop, in order; threads get consecutive turns."""
    assert isinstance(kernel, TileLinear), kernel
    shape, tiles = kernel.shape, -(-tokens // 16)
    kept = np.count_nonzero(packed(kernel.work).unpack(), axis=1)
    blocks = np.array([kept[first : first + shape.height].sum() for first in range(0, shape.n, shape.height)])
    parts = np.array([min(kernel.tiles, tiles - first) * 16 for first in range(0, tiles, kernel.tiles)])
    return (np.outer(blocks, parts) if kernel.rows_first else np.outer(parts, blocks)).ravel()


def markdown(found: Sequence[Row], shares: dict[str, float]) -> str:
    lines = [
        f"# {MODELS[MODEL].summary}, batch 1, sequence {SEQUENCE}: {THREADS} threads against 1",
        "",
        *(__doc__ or "").strip().split("\n\n    python")[0].split("\n\n", 1)[1].splitlines(),
        "",
        f"| model | runtime | 1 thread, ms | {THREADS}, ms | speed-up | two processes | busiest thread |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in found:
        share = f"{shares[row.case]:.1%}" if row.runtime == "espalier" else ""
        lines.append(
            f"| {MODEL}-{row.case} | {row.runtime} | {row.one:.2f} | {row.two:.2f} | {row.one / row.two:.2f} "
            f"| {2 * row.one / row.at_once:.2f} | {share} |"
        )
    return "\n".join([*lines, "", this_machine(("tvm-espalier", "apache-tvm", "onnxruntime")).line()]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, default=ROOT / "out" / "models")
    parser.add_argument("--cases", default="dense,hp90,hp90-g4", help=f"of {', '.join(CASES)}")
    parser.add_argument("--write", action="store_true", help="also write docs/results/threads_minilm_s128.md")
    options = parser.parse_args()
    cases = options.cases.split(",")
    shares = {case: busiest(make(MODEL, case, options.models)) for case in cases}
    text = markdown(list(rows(cases, options.models)), shares)
    print(text)
    if options.write:
        PAGE.write_text(text)
        print(f"wrote {PAGE}", file=sys.stderr)


if __name__ == "__main__":
    main()
