"""Latency of whole Transformers, dense and pruned, in Espalier and in every other runtime.

One table on stdout, with the machine; --write also puts it into docs/results/. The models are made once,
under --models. Figures mean something only on a machine that does nothing else meanwhile.

    python benchmarks/encoder_latency.py --cases dense,hp75,hp90 --sequence 128 --threads 1 --write
    python benchmarks/encoder_latency.py --model tinybert4 --cases dense,hp90 --write
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from models import MODELS, export
from prune_onnx import prune

from espalier.bench.compare import Bench, Entry, bench

ROOT = Path(__file__).resolve().parents[1]

CASES: dict[str, tuple[str, float, int] | None] = {
    "dense": None,
    "hp75": ("hp", 0.75, 1),
    "hp90": ("hp", 0.9, 1),
    "hp75-g4": ("hp", 0.75, 4),
    "hp90-g4": ("hp", 0.9, 4),
    "bp90": ("bp", 0.9, 1),
    "unstructured90": ("unstructured", 0.9, 1),
    **{f"hp{percent}": ("hp", percent / 100, 1) for percent in (50, 60, 70, 80, 85, 95)},
}
"""Name to structure, sparsity and rows that share level 2; None is the model as it is."""

DEFAULT = ("dense", "hp75", "hp90")
COLUMNS = (
    "model", "runtime", "median ms", "p5", "p95", "x dense onnxruntime", "x dense openvino-f32", "error",
)  # fmt: skip


def make(model: str, case: str, folder: Path) -> Path:
    """The ONNX file of a case, made if it is not there."""
    path = folder / f"{model}-{case}.onnx"
    recipe = CASES[case]
    if path.exists():
        return path
    if recipe is None:
        export(model, path)
    else:
        prune(make(model, "dense", folder), path, *recipe)
    return path


def cells(result: Bench, entry: Entry, dense: str) -> list[str]:
    """A row of the table; ratios are to the dense model: other runtimes run a pruned one no faster."""
    if entry.times is None:
        return [entry.model, entry.peer, entry.why, "", "", "", "", ""]
    ratios = [result.ratio(entry, result.of(dense, peer)) for peer in ("onnxruntime", "openvino-f32")]
    return [
        entry.model,
        entry.peer,
        *(f"{ms:.2f}" for ms in (entry.times.median, entry.times.p5, entry.times.p95)),
        *("" if ratio is None else f"{ratio:.2f}" for ratio in ratios),
        "" if entry.error is None else f"{entry.error:.1e}",
    ]


def markdown(result: Bench, model: str, sequence: int) -> str:
    """The table with everything needed to judge it."""
    lines = [
        f"# {MODELS[model].summary}, batch 1, sequence {sequence}, {result.threads} thread(s)",
        "",
        "Measured by `benchmarks/encoder_latency.py`: all models and runtimes interleaved in one run,",
        "medians with 5th and 95th percentile, every sample after an uncounted call. Pruned by magnitude in",
        "one shot (`hp`: B = 32, 2:4 in the kept columns). `error` is the largest difference from ONNX",
        "Runtime on the same model, over the largest output.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        f"|{'|'.join('---' for _ in COLUMNS)}|",
        *(f"| {' | '.join(cells(result, entry, f'{model}-dense'))} |" for entry in result.entries),
        "",
        result.machine.line(),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--models", type=Path, default=ROOT / "out" / "models", help="where the ONNX files are kept"
    )
    parser.add_argument("--model", choices=MODELS, default="minilm")
    parser.add_argument("--cases", default=",".join(DEFAULT), help=f"of {', '.join(CASES)}")
    parser.add_argument("--sequence", type=int, help="tokens; for a decoder's step, tokens before it")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peers", help="of `espalier bench --help`; default: all that are installed")
    parser.add_argument("--repeat", type=int, default=60, help="samples of each")
    parser.add_argument("--budget", type=float, default=20.0, help="seconds for each model in each runtime")
    parser.add_argument("--write", action="store_true", help="also write docs/results/encoder_latency_*.md")
    options = parser.parse_args()
    cases = options.cases.split(",")
    unknown = [case for case in cases if case not in CASES]
    if unknown:
        parser.error(f"unknown case {unknown[0]}; cases are {', '.join(CASES)}")
    sequence = options.sequence or MODELS[options.model].sequence
    result = bench(
        [make(options.model, case, options.models) for case in cases],
        peers=options.peers.split(",") if options.peers else None,
        threads=options.threads,
        input_shapes=MODELS[options.model].shapes(sequence),
        repeat=options.repeat,
        budget_s=options.budget,
        log=lambda text: print(text, file=sys.stderr),
    )
    table = markdown(result, options.model, sequence)
    print(table)
    if options.write:
        path = ROOT / "docs" / "results" / f"latency_{options.model}_s{sequence}_t{options.threads}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(table)
        print(f"wrote {path}", file=sys.stderr)


if __name__ == "__main__":
    main()
