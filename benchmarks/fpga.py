"""Encoders on every board at every sparsity, dense on the same accelerator, and this machine's CPU.

Board times are predicted by the closed-form model at an assumed clock, within 5 % on average of the simulated
RTL; the CPU is measured, ONNX Runtime on the dense model of the same shape. transformer-800-lm is
transformer-800 with its linear decoder. Markdown on stdout; --write also puts it into docs/results/.

    python benchmarks/fpga.py --tokens 128 --threads 1 --write
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from espalier.bench.machine import this_machine
from espalier.schedules.fpga import plan
from espalier.schedules.fpga.memory import CapacityError
from espalier.schedules.fpga.work import AttentionWork, LinearWork, Model, NormWork
from espalier.targets.fpga import encoder, latency, search
from espalier.targets.fpga.boards import Board, boards
from espalier.targets.fpga.encoder import DENSE, Encoder, Pruning
from espalier.targets.fpga.geometry import Geometry

SPARSITIES = (0.5, 0.75, 0.9, 0.95)
PUBLISHED = {"alveo-u200, CBR format": 10.35, "core i5-5257u": 113.4, "jetson tx2": 21.5}
"""Milliseconds of the group's Transformer."""


def pruning(sparsity: float, banks: int) -> Pruning:
    """Bank-balanced HP that keeps half of every vector and as many columns as that leaves."""
    return Pruning(columns=(1 - sparsity) * 2, n=banks // 2)


@dataclass(frozen=True)
class Row:
    """One encoder on one board at one sparsity."""

    ms: float
    use: float
    """Multiply-adds that count, over what the array could do meanwhile."""
    linear: float
    """Cycles of the linear layers."""
    shares: dict[str, float]
    """Part of the cycles by kind of operation."""
    outside: bool
    """Some activations lie in external memory meanwhile."""


def work_of(model: Encoder, tokens: int, how: Pruning, g: Geometry) -> Model:
    """What an encoder asks of the accelerator, as the compiler's planner takes it."""
    width = model.width
    steps: list[LinearWork | AttentionWork | NormWork] = []

    def linear(name: str, x: str, rows: int, k: int, *, tables: bool = False, streamed: bool = False) -> None:
        if how.n is None:
            words = latency.dense_words(k, g)
        else:
            words = latency.hp_words(k, max(g.banks, round(k * how.columns)), how.n, g)
        blocks = (words,) * -(-rows // g.pes)
        kept = round(rows * k * how.density(g.banks))
        steps.append(LinearWork(name, x, rows, blocks, how.n is not None, kept, tables, streamed=streamed))

    x = "x"
    for n in range(model.layers):
        for name in ("query", "key", "value"):
            linear(f"{n}.{name}", x, width, width)
        steps.append(
            AttentionWork(f"{n}.attention", f"{n}.query", f"{n}.key", f"{n}.value", width, model.heads)
        )
        linear(f"{n}.output", f"{n}.attention", width, width)
        steps.append(NormWork(f"{n}.norm1", f"{n}.output", x, width, stats=True))
        linear(f"{n}.hidden", f"{n}.norm1", model.hidden, width, tables=model.tables)
        linear(f"{n}.back", f"{n}.hidden", width, model.hidden)
        steps.append(NormWork(f"{n}.norm2", f"{n}.back", f"{n}.norm1", width, stats=True))
        x = f"{n}.norm2"
    if model.vocabulary:
        linear("decoder", x, model.vocabulary, width, streamed=True)
    return Model(tokens, (("x", width),), tuple(steps), (steps[-1].name,))


def row(model: Encoder, tokens: int, board: Board, how: Pruning) -> Row:
    """The prediction for a board's standard geometry, by the plan that the compiler would choose.

    Raises CapacityError for what does not fit in the smallest steps.
    """
    g = search.standard(board)
    planned = plan.choose(work_of(model, tokens, how, g), g, board.timing(g))
    spent: dict[str, float] = defaultdict(float)
    for part in planned.costs:
        spent["products" if part.name.endswith("products") else part.kind] += part.compute
    return Row(
        board.milliseconds(planned.cycles),
        sum(part.macs for part in planned.costs) / (planned.cycles * g.macs),
        spent["linear"],
        {kind: value / planned.cycles for kind, value in spent.items()},
        bool(planned.plan.outside),
    )


def onnx_model(model: Encoder, tokens: int):
    """The dense encoder as ONNX with random weights; x float32 [tokens, width]."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    nodes, weights = [], []

    def constant(name: str, *shape: int) -> str:
        value = rng.normal(0, shape[0] ** -0.5, shape).astype(np.float32)
        weights.append(numpy_helper.from_array(value, name))
        return name

    def node(op: str, *inputs: str, **attributes) -> str:
        out = f"v{len(nodes)}"
        nodes.append(helper.make_node(op, list(inputs), [out], **attributes))
        return out

    def linear(x: str, name: str, k: int, n: int) -> str:
        return node("Gemm", x, constant(f"{name}.w", k, n), constant(f"{name}.b", n))

    def norm(x: str, name: str) -> str:
        return node("LayerNormalization", x, constant(f"{name}.g", width), constant(f"{name}.o", width))

    width, size = model.width, model.width // model.heads
    split = numpy_helper.from_array(np.array([tokens, model.heads, size], np.int64), "split")
    join = numpy_helper.from_array(np.array([tokens, width], np.int64), "join")
    root = numpy_helper.from_array(np.float32(size**-0.5), "root")
    weights += [split, join, root]
    x = "x"
    for n in range(model.layers):
        q, k, v = (
            node("Reshape", linear(x, f"{n}.{name}", width, width), "split")
            for name in ("query", "key", "value")
        )
        q, v = (node("Transpose", t, perm=[1, 0, 2]) for t in (q, v))
        scores = node("Mul", node("MatMul", q, node("Transpose", k, perm=[1, 2, 0])), "root")
        context = node("MatMul", node("Softmax", scores), v)
        context = node("Reshape", node("Transpose", context, perm=[1, 0, 2]), "join")
        x = norm(node("Add", x, linear(context, f"{n}.output", width, width)), f"{n}.norm1")
        hidden = node("Relu", linear(x, f"{n}.hidden", width, model.hidden))
        x = norm(node("Add", x, linear(hidden, f"{n}.back", model.hidden, width)), f"{n}.norm2")
    if model.vocabulary:
        x = linear(x, "decoder", width, model.vocabulary)
    last = model.vocabulary or width
    graph = helper.make_graph(
        nodes,
        model.name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [tokens, width])],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, [tokens, last])],
        weights,
    )
    return onnx.helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def cpu_milliseconds(model: Encoder, tokens: int, threads: int) -> float:
    """Median CPU time of ONNX Runtime a thread, over about a second: other processes disturb it less."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    data = onnx_model(model, tokens).SerializeToString()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).normal(size=(tokens, model.width)).astype(np.float32)
    times = []
    while len(times) < 5 or sum(times) < 1:
        start = time.process_time()
        session.run(None, {"x": x})
        times.append((time.process_time() - start) / threads)
    return 1e3 * float(np.median(times))


def table(model: Encoder, tokens: int, cpu: float) -> list[str]:
    """Markdown lines of one encoder; `cpu` is the CPU's time in ms."""
    columns = ("board", "MHz", "geometry", "sparsity", "ms", "fps", "array used", "x dense")
    columns += ("linear layers x dense (of 1 / density)", "x CPU", "cycles by kind")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for board in boards().values():
        g = search.standard(board)
        head = f"| {board.name} | {board.mhz} | {g.label}"
        try:
            dense = row(model, tokens, board, DENSE)
        except CapacityError as error:
            lines.append(f"{head} | {error}{' |' * 8}")
            continue
        for sparsity in (0.0, *SPARSITIES):
            found = row(model, tokens, board, pruning(sparsity, g.banks)) if sparsity else dense
            at = f"{100 * sparsity:.0f} %{' *' * found.outside}"
            gain = dense.linear / found.linear
            parts = ", ".join(
                f"{name} {100 * part:.0f} %" for name, part in found.shares.items() if part >= 0.005
            )
            lines.append(
                f"{head} | {at} | {found.ms:.3f} | {1e3 / found.ms:.0f} "
                f"| {100 * found.use:.0f} % | {dense.ms / found.ms:.2f} "
                f"| {gain:.2f} ({gain * (1 - sparsity):.2f}) | {cpu / found.ms:.1f} | {parts} |"
            )
    return lines


def main() -> None:
    """Print one table a model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="write docs/results/fpga_sN.md as well")
    args = parser.parse_args()
    lines = [
        f"# Encoders on FPGA boards, batch 1, {args.tokens} tokens",
        "",
        "Board times are predicted by `benchmarks/fpga.py`: the closed-form model of the accelerator, held",
        "against the simulated RTL by the tests, at a clock that is assumed (nothing was placed and routed).",
        "HP is bank-balanced: half of each vector of 8, in as many columns as that leaves. `x dense` is",
        "against the dense model on the same accelerator, `x CPU` against ONNX Runtime on the dense model on",
        "this machine. `products` are those of attention, `turn` the copies they need. `*`: not all",
        "activations fit on chip; the plan keeps some in external memory and takes fewer tokens at a time,",
        "which is in the figures.",
    ]
    for model in (encoder.TRANSFORMER, encoder.LANGUAGE_MODEL, encoder.TINYBERT, encoder.MINILM):
        cpu = cpu_milliseconds(model, args.tokens, args.threads)
        lines += ["", f"## {model.name}", ""]
        lines.append(
            f"ONNX Runtime, dense, {args.threads} thread(s) of this CPU: {cpu:.2f} ms (measured, CPU time)."
        )
        if model.name.startswith(encoder.TRANSFORMER.name):
            published = ", ".join(f"{name} {ms} ms" for name, ms in PUBLISHED.items())
            lines.append(f"Published for this Transformer at 90 %: {published}.")
            ms = row(model, args.tokens, boards()["alveo-u200"], pruning(0.9, 8)).ms
            gains = ", ".join(f"{old / ms:.0f} x {name}" for name, old in PUBLISHED.items())
            lines.append(f"Here, HP 90 % on the alveo-u200: {ms:.3f} ms, so {gains}.")
        lines += ["", *table(model, args.tokens, cpu)]
    lines += ["", this_machine(("onnxruntime",)).line()]
    text = "\n".join(lines) + "\n"
    print(text, end="")
    if args.write:
        folder = Path(__file__).parent.parent / "docs" / "results"
        (folder / f"fpga_s{args.tokens}.md").write_text(text)


if __name__ == "__main__":
    main()
