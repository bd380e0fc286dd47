"""One MiniLM tuned by the command, killed in the middle, resumed, and compared with the same untuned.

HP 90 % (2:4, B = 32), 128 tokens, one thread. The command is killed (SIGKILL) as soon as half of the kernels
are measured and run again. Then both packages take turns. Compile times are of the command, with Python's
start, on all cores.

    python benchmarks/tuned_model.py --work out/tuned --step begin
    python benchmarks/tuned_model.py --work out/tuned --step finish
    python benchmarks/tuned_model.py --work out/tuned --step compare
    python benchmarks/tuned_model.py --work out/tuned --step compile --write
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from encoder_latency import make
from models import MODELS

from espalier.api import compile_model
from espalier.bench.inputs import model_inputs
from espalier.bench.machine import this_machine
from espalier.bench.timing import interleave, pinned
from espalier.passes.frontend import read_model
from espalier.search.record_file import read_records, whole_lines
from espalier.search.records import kernel_key
from espalier.targets.host import host
from espalier.tuning import model_tasks

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "results" / "tuned_minilm.md"
CASE, SEQUENCE = "hp90", 128
TRIALS = 128
MARKS = (16, 24, 32, 48, 64, 80, 96, 112, 128)
COMPILED = ("dense", "hp90", "hp90-g4")


def command(model: Path, records: Path) -> list[str]:
    shapes = " ".join(f"{name}:[1,{SEQUENCE}]" for name in MODELS["minilm"].inputs)
    options = ["--threads", "1", "--trials", str(TRIALS), "--input-shapes", shapes, "--json"]
    return [sys.executable, "-m", "espalier", "tune", str(model), "-o", str(records), *options]


def begin(model: Path, work: Path) -> dict[str, Any]:
    """Kills the command in the middle; how many kernels are in the file then."""
    records = work / "records"
    records.unlink(missing_ok=True)
    started = time.monotonic()
    process = subprocess.Popen(command(model, records), stdout=subprocess.DEVNULL)
    while process.poll() is None and _measured(records) < TRIALS // 2:
        time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (work / "killed").write_bytes(records.read_bytes())
    return {"killed_at": len(read_records(records)), "seconds": [time.monotonic() - started]}


def _measured(records: Path) -> int:
    return whole_lines(records.read_bytes()).count(b"\n") - 1 if records.exists() else 0


def finish(model: Path, work: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Runs the command again, and looks whether all that was there is there still."""
    started = time.monotonic()
    done = subprocess.run(command(model, work / "records"), stdout=subprocess.PIPE, check=True)
    kept = (work / "records").read_bytes().startswith(whole_lines((work / "killed").read_bytes()))
    seconds = [*facts["seconds"], time.monotonic() - started]
    return {"kept": kept, "tuned": json.loads(done.stdout), "seconds": seconds}


def curve(model: Path, records: Path) -> list[float]:
    """Milliseconds of all linear layers after each record, from where every layer has one."""
    cpu, shapes = host(), MODELS["minilm"].shapes(SEQUENCE)
    tasks = model_tasks(model, cpu, shapes, None, "float32", 1)
    whose = {
        kernel_key(variant, cpu.mcpu, task.tokens, 1): task
        for task in tasks
        for base in task.bases
        for variant in base.variants()
    }
    best: dict[str, float] = {}
    steps = []
    for record in read_records(records):
        task = whose[record.key]
        best[task.label] = min(best.get(task.label, float("inf")), record.milliseconds)
        whole = len(best) == len(tasks)
        steps.append(sum(one.count * best[one.label] for one in tasks) if whole else float("nan"))
    return steps


def compare(model: Path, work: Path) -> dict[str, Any]:
    """Both packages, interleaved."""
    shapes = MODELS["minilm"].shapes(SEQUENCE)
    inputs = model_inputs(read_model(model), shapes)
    runs = {}
    for name, records in {"untuned": [], "tuned": [work / "records"]}.items():
        done = compile_model(model, input_shapes=shapes, threads=1, tuning_records=records)
        runs[name] = partial(done.package.executor(threads=1).run, inputs)
    with pinned(1):
        times = interleave(runs, repeat=400, budget_s=60)
    return {"times": {name: each.to_dict() for name, each in times.items()}}


def compile_times(models: Path, work: Path) -> dict[str, Any]:
    """Seconds of `espalier compile`: without a cache, and a second time with one."""
    found = {}
    for case in COMPILED:
        model = make("minilm", case, models)
        cold = _compile(model, work, "")
        _compile(model, work, str(work / "cache"))
        found[case] = [cold, _compile(model, work, str(work / "cache"))]
    return {"compile": found}


def _compile(model: Path, work: Path, cache: str) -> float:
    options = ["-o", str(work / "m.tar"), "-q"]
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    started = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "espalier", "compile", str(model), *options],
        env=environment | {"ESPALIER_CACHE": cache},
        check=True,
    )
    return time.monotonic() - started


def report(facts: dict[str, Any], steps: list[float]) -> Iterator[str]:
    yield "# One MiniLM tuned, killed and resumed"
    yield ""
    yield from (__doc__ or "").strip().split("\n\n    python")[0].split("\n\n", 1)[1].splitlines()
    yield ""
    kept = "every line of it is still there" if facts["kept"] else "LINES OF IT ARE LOST"
    yield f"Killed at {facts['killed_at']} records after {facts['seconds'][0]:.0f} s, resumed and done after"
    yield f"{facts['seconds'][1]:.0f} s more at {facts['tuned']['trials']} kernels; {kept}."
    yield ""
    untuned = sum(task["layers"] * task["untuned"]["ms"] for task in facts["tuned"]["tasks"])
    yield f"All linear layers together, of {untuned:.3f} ms untuned:"
    yield ""
    yield f"| records | {' | '.join(map(str, MARKS))} |"
    yield "|---|" + "---|" * len(MARKS)
    at = [steps[min(mark, len(steps)) - 1] for mark in MARKS]
    yield f"| ms | {' | '.join(f'{ms:.3f}' for ms in at)} |"
    yield f"| gain | {' | '.join(f'{1 - ms / untuned:.1%}' for ms in at)} |"
    yield ""
    yield "| layer | layers | tried | untuned | ms | tuned | ms | gain |"
    yield "|---|---|---|---|---|---|---|---|"
    for task in facts["tuned"]["tasks"]:
        before, after = task["untuned"], task["best"]
        cells = [f"{task['layer']}, {task['shape']}", task["layers"], task["trials"]]
        cells += [cell for one in (before, after) for cell in (one["kernel"], f"{one['ms']:.4f}")]
        yield f"| {' | '.join(map(str, cells))} | {1 - after['ms'] / before['ms']:.1%} |"
    yield ""
    yield "The whole model, both packages interleaved:"
    yield ""
    yield "| | median ms | p5 | p95 | samples |"
    yield "|---|---|---|---|---|"
    for name, times in facts["times"].items():
        figures = [f"{times[key]:.3f}" for key in ("median", "p5", "p95")]
        yield f"| {name} | {' | '.join(figures)} | {times['samples']} |"
    yield ""
    yield "Seconds of `espalier compile`, dynamic shapes, no records:"
    yield ""
    yield "| model | no cache | second time, with a cache |"
    yield "|---|---|---|"
    for case, (cold, warm) in facts["compile"].items():
        yield f"| minilm-{case} | {cold:.1f} | {warm:.1f} |"
    yield ""
    yield this_machine(("tvm-espalier", "apache-tvm", "xgboost-cpu")).line()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="a folder for records and what is found")
    parser.add_argument("--models", type=Path, default=ROOT / "out" / "models")
    parser.add_argument("--step", choices=("begin", "finish", "compare", "compile"))
    parser.add_argument("--write", action="store_true", help="write docs/results/tuned_minilm.md")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    known = options.work / "facts.json"
    facts = json.loads(known.read_text()) if known.exists() else {}
    model = make("minilm", CASE, options.models)
    match options.step:
        case "begin":
            facts |= begin(model, options.work)
        case "finish":
            facts |= finish(model, options.work, facts)
        case "compare":
            facts |= compare(model, options.work)
        case "compile":
            facts |= compile_times(options.models, options.work)
    known.write_text(json.dumps(facts, indent=1))
    if options.write:
        PAGE.write_text("\n".join(report(facts, curve(model, options.work / "records"))) + "\n")
        print(f"wrote {PAGE}", file=sys.stderr)


if __name__ == "__main__":
    main()
