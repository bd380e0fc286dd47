"""Linear layers alone: every structure over sparsity, against our dense kernel and ONNX Runtime, one thread.

For each structure the kernel is taken that `compile` takes untuned. Times are CPU times of the calling
thread, medians of interleaved samples; "peak" is the share of a measured loop of nothing but multiply-adds,
counted on the weights that are kept. Structures that cannot prune so little are left out (HP 2:4 under 50 %).

The layers are those of MiniLM. WORK keeps what is measured: the command can be stopped and goes on there.
--write puts the table and a plot of all that is in WORK into docs/results/.

    python benchmarks/linear_kernels.py --work out/linear_kernels.jsonl
    python benchmarks/linear_kernels.py --work out/linear_kernels.jsonl --write
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np

os.environ["TVM_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"

from espalier.bench.machine import this_machine
from espalier.bench.timing import interleave
from espalier.schedules import LinearKernel, LinearWork, linear_candidates
from espalier.sparsity import BP, HP, NM, PP, Block, Dense, Structure, Unstructured
from espalier.targets.cpu import Cpu
from espalier.targets.host import host
from espalier.tuning import estimator

ROOT = Path(__file__).resolve().parents[1]
Shape = tuple[int, int]

STRUCTURES: dict[str, Callable[[Shape, float], Structure]] = {
    "BP": lambda shape, sparsity: BP.for_sparsity(shape, sparsity),
    "BP rows": lambda shape, sparsity: BP.for_sparsity(shape, sparsity, axis="rows"),
    "HP 2:4": lambda shape, sparsity: HP.for_sparsity(shape, sparsity),
    "HP 2:4 g=4": lambda shape, sparsity: HP.for_sparsity(shape, sparsity, g=4),
    "PP": lambda shape, sparsity: PP.for_sparsity(shape, sparsity),
    "block 16x1": lambda shape, sparsity: Block.for_sparsity(shape, sparsity, bh=16, bw=1),
    "block 32x32": lambda shape, sparsity: Block.for_sparsity(shape, sparsity, bh=32, bw=32),
    "N:16": lambda shape, sparsity: NM.for_sparsity(shape, sparsity, v=16),
    "unstructured": lambda shape, sparsity: Unstructured(round(shape[0] * shape[1] * (1 - sparsity))),
}
LAYOUTS = {"tiles": "tiles", "tokens": "rows"}
"""As people call how tokens lie."""
NOISE, SLOWER = 0.03, 0.02
"""Shares of a time: what counts as noise between two sparsities, and as slower than dense."""
PAYS = 0.5
"""The sparsity from which on the time is to fall at every step."""
PEAK_TURNS = 20000
PEAK_CHAINS = 6


def compiled(function: object, cpu: Cpu) -> Callable[..., None]:
    """The only function of a module for `cpu`."""
    import tvm

    target = tvm.target.Target({"kind": "llvm", "mcpu": cpu.mcpu})
    return tvm.compile(function, target=target)["kernel"]


@cache
def built(kernel: LinearKernel, cpu: Cpu) -> Callable[..., None]:
    """A kernel, compiled once for all its sparsities."""
    return compiled(kernel.func("kernel"), cpu)


def runner(kernel: LinearKernel, weight: np.ndarray, tokens: int, cpu: Cpu) -> Callable[[], None]:
    """Calls the kernel on random tokens."""
    import tvm

    work = kernel.work
    rng = np.random.default_rng(0)
    tiles = -(-tokens // 16)
    if work.layout == "tiles":
        x, y = rng.standard_normal((tiles, work.k, 16)), np.zeros((tiles, work.n, 16))
    else:
        x, y = rng.standard_normal((tokens, work.k)), np.zeros((tokens, work.n))
    arrays = [x.astype(np.float32), *kernel.pack(work.structure.pack(weight)), y.astype(np.float32)]
    arguments = [tvm.runtime.tensor(array) for array in arrays]
    if kernel.counts_tokens:
        arguments.insert(-1, tokens)
    call = built(kernel, cpu)
    return lambda: call(*arguments)


def onnxruntime_dense(weight: np.ndarray, tokens: int) -> Callable[[], None]:
    """ONNX Runtime's MatMul with a constant weight, on one thread, without copies."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    n, k = weight.shape
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "dense",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [tokens, k])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [tokens, n])],
        [numpy_helper.from_array(np.ascontiguousarray(weight.T), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    x = np.random.default_rng(0).standard_normal((tokens, k)).astype(np.float32)
    y = np.zeros((tokens, n), np.float32)
    binding = session.io_binding()
    binding.bind_input("x", "cpu", 0, np.float32, x.shape, x.ctypes.data)
    binding.bind_output("y", "cpu", 0, np.float32, y.shape, y.ctypes.data)
    kept = (x, y)  # the binding holds addresses only
    return lambda: session.run_with_iobinding(binding) if kept else None


@cache
def multiply_adds(cpu: Cpu) -> Callable[[], None]:
    """A loop of 16-lane multiply-adds in registers: 2 * 16 * PEAK_CHAINS * PEAK_TURNS operations."""
    import tvm

    from espalier.schedules.x86.build import (
        Vectors,
        loop,
        opaque,
        parameter,
        prim_func,
        splat,
        store,
        vector,
    )  # fmt: skip

    def body() -> None:
        x = parameter("X", (2,))
        y = parameter("Y", (16,))
        with opaque("sums"):
            sums = Vectors("sums", PEAK_CHAINS)
            for i in range(PEAK_CHAINS):
                sums[i] = splat(x[0])
            with loop("turn", PEAK_TURNS):
                for i in range(PEAK_CHAINS):
                    sums[i] = sums[i] * splat(x[0]) + splat(x[1])
            total = sums[0]
            for i in range(1, PEAK_CHAINS):
                total = total + sums[i]
            store(y, [vector()], total)

    call = compiled(prim_func("kernel", body), cpu)
    x = tvm.runtime.tensor(np.array([0.5, 1.0], np.float32))
    y = tvm.runtime.tensor(np.zeros(16, np.float32))
    return lambda: call(x, y)


@dataclass(frozen=True)
class Row:
    """One structure of one shape at one sparsity; times in microseconds, peak a share."""

    shape: str
    sparsity: float
    structure: str
    kernel: str
    us: float
    over_dense: float
    over_ort: float
    peak: float
    predicted_us: float | None

    def line(self) -> str:
        """A row of the table."""
        cells = (
            self.shape.replace("x", " x "), f"{self.sparsity:.0%}", self.structure, self.kernel,
            f"{self.us:.1f}", f"{self.over_dense:.2f}", f"{self.over_ort:.2f}", f"{self.peak:.2f}",
            "" if self.predicted_us is None else f"{self.predicted_us:.0f}",
        )  # fmt: skip
        return f"| {' | '.join(cells)} |"


COLUMNS = (
    "shape N x K", "sparsity", "structure", "kernel", "us", "x dense", "x ORT", "peak", "predicted us",
)  # fmt: skip


@dataclass(frozen=True)
class Contestant:
    """What runs one structure, with the weights that it keeps and its predicted time."""

    kernel: str
    kept: int
    predicted: float | None
    run: Callable[[], object]


def contestants(
    shape: Shape, options: argparse.Namespace, sparsity: float, cpu: Cpu
) -> Iterator[tuple[str, Contestant]]:
    """Each structure by name, ONNX Runtime and our dense kernel first."""
    weight = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    onnx = onnxruntime_dense(weight, options.tokens)
    yield "ONNX Runtime", Contestant("dense", weight.size, None, onnx)
    choose = estimator(cpu, ())
    for name in ["dense", *options.structures]:
        try:
            structure = Dense() if name == "dense" else STRUCTURES[name](shape, sparsity)
        except ValueError:
            continue
        work = LinearWork(*shape, structure, layout=options.layout)
        best = choose.estimates(linear_candidates(work, cpu), options.tokens, 1)[0]
        pruned = np.where(structure.mask(weight), weight, np.float32(0))
        run = runner(best.kernel, pruned, options.tokens, cpu)
        yield name, Contestant(best.kernel.name, structure.kept_count(shape), best.milliseconds, run)


def measure(shape: Shape, sparsity: float, options: argparse.Namespace, cpu: Cpu) -> list[Row]:
    """All structures at one sparsity, in turn."""
    there = dict(contestants(shape, options, sparsity, cpu))
    runs = {name: one.run for name, one in there.items()} | {"peak": multiply_adds(cpu)}
    times = interleave(runs, repeat=options.repeat, budget_s=options.budget, clock=time.thread_time)
    took = {name: one.median for name, one in times.items()}
    fastest = 16 * PEAK_CHAINS * PEAK_TURNS / took["peak"]  # multiply-adds a millisecond
    return [
        Row(
            shape=f"{shape[0]}x{shape[1]}",
            sparsity=sparsity,
            structure=name,
            kernel=one.kernel,
            us=took[name] * 1e3,
            over_dense=took["dense"] / took[name],
            over_ort=took["ONNX Runtime"] / took[name],
            peak=one.kept * options.tokens / took[name] / fastest,
            predicted_us=None if one.predicted is None else one.predicted * 1e3,
        )
        for name, one in there.items()
    ]


def read(path: Path) -> list[Row]:
    """What is measured so far."""
    return [Row(**json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []


def fill(path: Path, options: argparse.Namespace, cpu: Cpu) -> None:
    """Measures what is not in the file yet, and adds it, a sparsity at a time."""
    done = {(row.shape, row.sparsity) for row in read(path)}
    for shape in options.shapes:
        for sparsity in options.sparsity:
            if (f"{shape[0]}x{shape[1]}", sparsity) in done:
                continue
            rows = measure(shape, sparsity, options, cpu)
            with path.open("a") as file:
                file.writelines(json.dumps(asdict(row)) + "\n" for row in rows)
            for row in rows:
                print(row.line(), flush=True)


Speedups = dict[str, dict[str, dict[float, float]]]
"""Shape to structure to sparsity to the speed-up over our dense kernel."""


def speedups_of(rows: Sequence[Row]) -> Speedups:
    found: Speedups = {}
    for row in rows:
        if row.structure in STRUCTURES:
            found.setdefault(row.shape, {}).setdefault(row.structure, {})[row.sparsity] = row.over_dense
    return found


def monotone(speedups: Speedups) -> list[str]:
    """One line a shape: the structures whose time does not fall at every step of sparsity from 50 % on."""
    lines = []
    for shape, by_name in speedups.items():
        odd = [
            f"{name} from {before:.0%} to {after:.0%} ({one[before]:.2f} to {one[after]:.2f})"
            for name, one in by_name.items()
            for before, after in pairwise(sorted(sparsity for sparsity in one if sparsity >= PAYS))
            if one[after] < one[before] * (1 - NOISE)
        ]
        lines.append(f"- {shape}: {'all but ' + ', '.join(odd) if odd else 'every structure'}")
    return ["The time falls at every step of sparsity from 50 % on, 3 % being noise:", "", *lines]


def never_slower(rows: Sequence[Row]) -> list[str]:
    """The cases that take longer than our dense kernel; those that it runs itself differ by noise only."""
    dense = {(row.shape, row.sparsity): row.kernel for row in rows if row.structure == "dense"}
    cases = [row for row in rows if row.structure in STRUCTURES]
    slower = [
        f"- {row.shape}, {row.structure} at {row.sparsity:.0%}: {row.over_dense:.3f} of its speed"
        for row in cases
        if row.over_dense < 1 - SLOWER and row.kernel != dense[row.shape, row.sparsity]
    ]
    return [f"Of {len(cases)} cases {len(slower)} take over 2 % longer than our dense kernel.", *slower, ""]


def plot(by_name: dict[str, dict[float, float]], title: str, path: Path) -> None:
    """Speed-up over density (both logarithmic), a line a structure, and the ideal 1 / density."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "espalier"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 5))
    steps = sorted({sparsity for one in by_name.values() for sparsity in one})
    kept = [100 * (1 - sparsity) for sparsity in steps]
    axes.plot(kept, [100 / one for one in kept], "k--", linewidth=1, label="ideal: 1 / density")
    for name, one in by_name.items():
        axes.plot([100 * (1 - sparsity) for sparsity in sorted(one)], [one[s] for s in sorted(one)], "o-",
                  markersize=3, label=name)  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel="sparsity", ylabel="speed-up over dense", title=title)
    axes.set_xticks(kept, [f"{sparsity:.0%}" for sparsity in steps], minor=False, fontsize=7, rotation=60)
    axes.set_xticks([], minor=True)
    axes.set_yticks([1, 2, 5, 10, 20], ["1", "2", "5", "10", "20"])
    axes.invert_xaxis()
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")
    pyplot.close(figure)


def together(rows: Sequence[Row]) -> dict[str, dict[float, float]]:
    """The speed-up of a layer of MiniLM over its structures: all shapes one after another."""
    times: dict[tuple[str, float], list[tuple[float, float]]] = {}
    for row in rows:
        if row.structure in STRUCTURES:
            pair = (row.us * row.over_dense, row.us)
            times.setdefault((row.structure, row.sparsity), []).append(pair)
    found: dict[str, dict[float, float]] = {}
    for (name, sparsity), pairs in times.items():
        found.setdefault(name, {})[sparsity] = sum(dense for dense, _ in pairs) / sum(own for _, own in pairs)
    return found


def write(rows: Sequence[Row], options: argparse.Namespace) -> Path:
    """The table, what follows from it, and the plot."""
    speedups = speedups_of(rows)
    path = ROOT / "docs" / "results" / f"linear_kernels_m{options.tokens}_{options.layout}.md"
    lines = [f"# Linear layers, {options.tokens} tokens in {LAYOUTS[options.layout]}, one thread", ""]
    lines += (__doc__ or "").split("\n\n")[1].splitlines()
    title = f"layers of MiniLM together, {options.tokens} tokens, one thread"
    plot(together(rows), title, path.with_suffix(".svg"))
    lines += ["", f"![speed-up over sparsity, {title}]({path.stem}.svg)"]
    lines += ["", *monotone(speedups), "", *never_slower(rows)]
    lines += [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS), *(row.line() for row in rows)]
    lines += ["", this_machine(("apache-tvm", "onnxruntime")).line()]
    path.write_text("\n".join(lines) + "\n")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shapes = "1152x384,384x384,1536x384,384x1536"
    steps = "0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.75,0.8,0.85,0.9,0.95"
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--shapes", default=shapes, type=lambda text: [
        (int(n), int(k)) for n, k in (shape.split("x") for shape in text.split(","))
    ], help="N x K, comma-separated")  # fmt: skip
    parser.add_argument("--sparsity", default=steps, type=lambda text: [
        float(one) for one in text.split(",")
    ])  # fmt: skip
    parser.add_argument("--structures", default=",".join(STRUCTURES), type=lambda text: text.split(","))
    parser.add_argument("--layout", choices=("tiles", "tokens"), default="tiles")
    parser.add_argument("--repeat", type=int, default=25, help="samples of each")
    parser.add_argument("--budget", type=float, default=2.0, help="seconds for each")
    parser.add_argument("--write", action="store_true", help="write docs/results/linear_kernels_*")
    options = parser.parse_args()
    unknown = [name for name in options.structures if name not in STRUCTURES]
    if unknown:
        parser.error(f"unknown structure {unknown[0]}; structures are {', '.join(STRUCTURES)}")
    if options.write:
        print(f"wrote {write(read(options.work), options)}", file=sys.stderr)
    else:
        fill(options.work, options, host())


if __name__ == "__main__":
    main()
