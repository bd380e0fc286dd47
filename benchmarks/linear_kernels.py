"""Linear layers alone: every structure over sparsity, against our dense kernel and ONNX Runtime, one thread.

For each structure the kernel that is predicted to be fastest is taken. Times are CPU times of the calling
thread, medians of interleaved samples; "peak" is the share of a measured loop of nothing but multiply-adds,
counted on the weights that are kept. "monotone" tells whether the time falls at every step of sparsity, 3 %
being noise. --write also puts the table and a plot for each shape into docs/results/.

    python benchmarks/linear_kernels.py --tokens 128 --shapes 768x768,384x384,384x1536,1536x384 --write
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np

os.environ["TVM_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"

from espalier.bench.machine import this_machine
from espalier.bench.timing import Times, interleave
from espalier.schedules import LinearKernel, LinearWork, linear_candidates
from espalier.schedules.linear import Layout
from espalier.sparsity import BP, HP, NM, PP, Block, Dense, Structure, Unstructured
from espalier.targets.cpu import Cpu
from espalier.targets.host import host

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
PEAK_TURNS = 20000
PEAK_CHAINS = 6


def compiled(function: object, cpu: Cpu) -> Callable[..., None]:
    """The only function of a module for `cpu`."""
    import tvm

    target = tvm.target.Target({"kind": "llvm", "mcpu": cpu.mcpu})
    return tvm.compile(function, target=target)["kernel"]


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
    call = compiled(kernel.func("kernel"), cpu)
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


def contestants(
    shape: Shape, tokens: int, layout: Layout, structures: list[str], sparsity: float, cpu: Cpu
) -> Iterator[tuple[str, str, int, float, Callable[[], None]]]:
    """(structure, kernel, kept weights, predicted milliseconds, run)."""
    weight = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    yield "ONNX Runtime", "dense", weight.size, float("nan"), onnxruntime_dense(weight, tokens)
    for name in ["dense", *structures]:
        structure = Dense() if name == "dense" else STRUCTURES[name](shape, sparsity)
        work = LinearWork(*shape, structure, layout=layout)
        kernel = min(linear_candidates(work, cpu), key=lambda kernel: kernel.milliseconds(tokens, 1))
        pruned = np.where(structure.mask(weight), weight, np.float32(0))
        run = runner(kernel, pruned, tokens, cpu)
        yield name, kernel.name, structure.kept_count(shape), kernel.milliseconds(tokens, 1), run


Speedups = dict[Shape, dict[str, dict[float, float]]]
"""Shape to structure to sparsity to the speed-up over our dense kernel."""


def table(options: argparse.Namespace, cpu: Cpu, speedups: Speedups) -> Iterator[str]:
    """The rows, one block for each shape and sparsity; fills `speedups`."""
    columns = (
        "shape N x K",
        "sparsity",
        "structure",
        "kernel",
        "us",
        "x dense",
        "x ORT",
        "peak",
        "predicted us",
    )
    yield f"| {' | '.join(columns)} |"
    yield "|" + "---|" * len(columns)
    for shape in options.shapes:
        for sparsity in options.sparsity:
            rows = list(contestants(shape, options.tokens, options.layout, options.structures, sparsity, cpu))
            runs = {name: run for name, *_, run in rows} | {"peak": multiply_adds(cpu)}
            times = interleave(runs, repeat=options.repeat, budget_s=options.budget, clock=time.thread_time)
            for name, kernel, kept, predicted, _ in rows:
                if name in STRUCTURES:
                    over = times["dense"].median / times[name].median
                    speedups.setdefault(shape, {}).setdefault(name, {})[sparsity] = over
                yield line(shape, sparsity, name, kernel, kept * options.tokens, predicted, times)


def line(
    shape: Shape,
    sparsity: float,
    name: str,
    kernel: str,
    multiplies: int,
    predicted: float,
    times: dict[str, Times],
) -> str:
    """A row of the table."""
    took = times[name].median
    fastest = 16 * PEAK_CHAINS * PEAK_TURNS / times["peak"].median  # multiply-adds a millisecond
    cells = (
        f"{shape[0]} x {shape[1]}", f"{sparsity:.0%}", name, kernel, f"{took * 1e3:.1f}",
        f"{times['dense'].median / took:.2f}", f"{times['ONNX Runtime'].median / took:.2f}",
        f"{multiplies / took / fastest:.2f}", "" if np.isnan(predicted) else f"{predicted * 1e3:.0f}",
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def monotone(speedups: Speedups, noise: float = 0.03) -> list[str]:
    """One line a shape: the structures whose time does not fall at every step of sparsity."""
    lines = []
    for shape, by_name in speedups.items():
        odd = [
            f"{name} from {before:.0%} to {after:.0%} ({one[before]:.2f} to {one[after]:.2f})"
            for name, one in by_name.items()
            for before, after in pairwise(sorted(one))
            if one[after] < one[before] * (1 - noise)
        ]
        verdict = "all structures" if not odd else f"all but {', '.join(odd)}"
        lines.append(f"Monotone for {shape[0]} x {shape[1]}: {verdict}.")
    return lines


def plot(by_name: dict[str, dict[float, float]], title: str, path: Path) -> None:
    """Speed-up over density (both logarithmic), a line a structure, and the ideal 1 / density."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 5))
    steps = sorted({sparsity for one in by_name.values() for sparsity in one})
    kept = [100 * (1 - sparsity) for sparsity in steps]
    axes.plot(kept, [100 / one for one in kept], "k--", linewidth=1, label="ideal: 1 / density")
    for name, one in by_name.items():
        axes.plot([100 * (1 - sparsity) for sparsity in sorted(one)], [one[s] for s in sorted(one)], "o-",
                  markersize=3, label=name)  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel="sparsity", ylabel="speed-up over dense", title=title)
    axes.set_xticks(kept, [f"{sparsity:.0%}" for sparsity in steps], minor=False)
    axes.set_xticks([], minor=True)
    axes.set_yticks([1, 2, 5, 10, 20], ["1", "2", "5", "10", "20"])
    axes.invert_xaxis()
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shapes = "768x768,384x384,384x1536,1536x384"
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--shapes", default=shapes, type=lambda text: [
        (int(n), int(k)) for n, k in (shape.split("x") for shape in text.split(","))
    ], help="N x K, comma-separated")  # fmt: skip
    parser.add_argument("--sparsity", default="0.5,0.6,0.7,0.75,0.8,0.85,0.9,0.95", type=lambda text: [
        float(one) for one in text.split(",")
    ])  # fmt: skip
    parser.add_argument("--structures", default=",".join(STRUCTURES), type=lambda text: text.split(","))
    parser.add_argument("--layout", choices=("tiles", "tokens"), default="tiles")
    parser.add_argument("--repeat", type=int, default=25, help="samples of each")
    parser.add_argument("--budget", type=float, default=2.0, help="seconds for each")
    parser.add_argument("--write", action="store_true", help="also write docs/results/linear_kernels_*.md")
    options = parser.parse_args()
    unknown = [name for name in options.structures if name not in STRUCTURES]
    if unknown:
        parser.error(f"unknown structure {unknown[0]}; structures are {', '.join(STRUCTURES)}")
    cpu = host()
    lines = [f"# Linear layers, {options.tokens} tokens in {options.layout}, one thread", ""]
    lines += [*(__doc__ or "").split("\n\n")[1].splitlines(), ""]
    speedups: Speedups = {}
    for row in table(options, cpu, speedups):
        print(row, flush=True)
        lines.append(row)
    lines += ["", *monotone(speedups)]
    print("\n".join(monotone(speedups)))
    lines += ["", this_machine(("apache-tvm", "onnxruntime")).line()]
    if options.write:
        path = ROOT / "docs" / "results" / f"linear_kernels_m{options.tokens}_{options.layout}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        for shape, by_name in speedups.items():
            image = path.with_name(f"{path.stem}_{shape[0]}x{shape[1]}.svg")
            plot(by_name, f"{shape[0]} x {shape[1]}, {options.tokens} tokens, one thread", image)
            lines += ["", f"![speed-up over sparsity]({image.name})"]
        path.write_text("\n".join(lines) + "\n")
        print(f"wrote {path}", file=sys.stderr)


if __name__ == "__main__":
    main()
