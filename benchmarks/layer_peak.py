"""Share of the FMA peak by layer: MiniLM at 128 tokens, one thread, as `espalier run --profile` tells it.

Layers that run the same function are one row, its share the median of all its calls in several runs. "of
peak" counts weights that are not zero only, and the time of a layer's bias, activation (GELU in the first of
the two feed-forward layers) and residual as well; "share" is of the whole run's time.

    python benchmarks/layer_peak.py --cases dense,hp90,hp90-g4 --write
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from encoder_latency import CASES, make
from models import MODELS

from espalier.api import compile_model
from espalier.bench.inputs import model_inputs
from espalier.bench.machine import this_machine
from espalier.bench.timing import pinned
from espalier.cli.profile import SHARE, profile_rows
from espalier.passes.frontend import read_model
from espalier.runtime.inputs import dim_sizes
from espalier.runtime.peak import peak

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "results" / "layer_peak_minilm_s128.md"
MODEL, SEQUENCE, RUNS = "minilm", 128, 9


def rows(case: str, models: Path) -> Iterator[str]:
    """A line a function of linear layers, and one for all that is no linear layer."""
    path, shapes = make(MODEL, case, models), MODELS[MODEL].shapes(SEQUENCE)
    package = compile_model(path, input_shapes=shapes, threads=1).package
    executor, inputs = package.executor(threads=1), model_inputs(read_model(path), shapes)
    sizes, most = dim_sizes(executor.signature, inputs), peak(1)
    shares: dict[str, list[float]] = {}
    spent: dict[str, float] = {}
    for _ in range(RUNS):
        for row in profile_rows(executor.profile(inputs), package.metadata.layers, sizes, most):
            name = row["kernel"].rpartition("_")[0] if SHARE not in row else row["kernel"]
            spent[name] = spent.get(name, 0.0) + row["ms"]
            if SHARE in row:
                shares.setdefault(name, []).append(row[SHARE])
    total = sum(spent.values())
    for name, each in shares.items():
        share = f"{spent[name] / total:.1%}"
        yield f"| {MODEL}-{case} | {name} | {len(each) // RUNS} | {share} | {median(each):.1%} |"
    for name in ("attention", "layer_norm"):
        share = sum(ms for kernel, ms in spent.items() if kernel.startswith(name)) / total
        yield f"| {MODEL}-{case} | {name} |  | {share:.1%} |  |"


def markdown(cases: list[str], models: Path) -> str:
    lines = ["# Share of the FMA peak by layer, MiniLM at 128 tokens, one thread", ""]
    lines += (__doc__ or "").strip().split("\n\n    python")[0].split("\n\n", 1)[1].splitlines()
    lines += ["", "| model | kernel | layers | share | of peak |", "|---|---|---|---|---|"]
    with pinned(1):
        lines += [line for case in cases for line in rows(case, models)]
        lines += ["", f"Peak: {peak(1).text()}.", ""]
    return "\n".join([*lines, this_machine(("tvm-espalier", "apache-tvm")).line()]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, default=ROOT / "out" / "models")
    parser.add_argument("--cases", default="dense,hp90,hp90-g4", help=f"of {', '.join(CASES)}")
    parser.add_argument("--write", action="store_true", help=f"also write docs/results/{PAGE.name}")
    options = parser.parse_args()
    text = markdown(options.cases.split(","), options.models)
    print(text)
    if options.write:
        PAGE.write_text(text)
        print(f"wrote {PAGE}", file=sys.stderr)


if __name__ == "__main__":
    main()
