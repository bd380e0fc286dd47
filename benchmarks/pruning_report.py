"""From the results of pruning_experiments.py to docs/results/pruning.md: one small JSON, tables and plots.

    python benchmarks/pruning_report.py --collect RESULTS   # adds the points of RESULTS to the JSON first
    python benchmarks/pruning_report.py                     # tables and plots from the JSON alone

The JSON (docs/results/pruning/points.json) grows over sessions: a point that is there already is replaced. In
pruning.md only what stands between `<!-- results -->` and `<!-- end of results -->` is written.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "docs" / "results"
PAGE, POINTS = FOLDER / "pruning.md", FOLDER / "pruning" / "points.json"
BEGIN, END = "<!-- results -->", "<!-- end of results -->"

NAMES = {
    "unstructured": "unstructured",
    "hp": "HP 2 of 4",
    "hp-1of4": "HP 1 of 4",
    "hp-g4": "HP 2 of 4, g=4",
    "nm16": "N:M of 16",
    "nm4": "2:4",
    "bp+pp": "BP + PP",
    "bp": "BP",
    "block16x1": "block 16x1",
    "block32x32": "block 32x32",
}
"""Structures of the grid in the order of the tables."""

VARIANTS = {
    "": "layer by layer, reconstruction",
    "wanda": "layer by layer, Wanda",
    "magnitude": "magnitude, all at once",
    "gradual": "magnitude, gradual",
    "movement": "movement, gradual",
    "lasso": "group lasso",
    "admm": "ADMM",
    "nodistil": "reconstruction, no distillation",
    "sensitivity": "reconstruction, sensitivity-aware budgets",
}
FORMATS = ("packed", "csr", "bcsr", "bitmap", "coo")


@dataclass(frozen=True)
class Key:
    """What is one row or cell: all but the seed. `steps`: (dense, retraining)."""

    task: str
    structure: str
    sparsity: float
    variant: str
    steps: tuple[int, int]


def collect(results: Path, points: dict[str, dict[str, Any]]) -> int:
    """Add every JSON under `results/TASK`; the number that were added or replaced."""
    found = 0
    for path in sorted(results.glob("*/*.json")):
        told = json.loads(path.read_text())
        structure, sparsity, *variant, seed = split_name(path.stem)
        sizes = {name: sum(layer["bytes"][name] for layer in told["layers"]) for name in ("dense", *FORMATS)}
        points[f"{told['task']}/{path.stem}/{told['steps']['dense']}+{told['steps']['prune']}"] = {
            "task": told["task"],
            "structure": structure,
            "parameters": told["options"]["structure"],
            "sparsity": float(sparsity),
            "variant": "".join(variant),
            "seed": int(seed),
            "steps": [told["steps"]["dense"], told["steps"]["prune"]],
            "zeros": round(told["sparsity"]["pruned_layers"], 4),
            "metric": told["metric"],
            "bytes": sizes,
            "seconds": round(told["seconds"]["prune"]),
            "versions": told["versions"],
        }
        found += 1
    return found


def split_name(stem: str) -> list[str]:
    """`hp-g4-0.8-nodistil-0` as structure, sparsity, (variant), seed."""
    parts = stem.split("-")
    at = next(i for i, part in enumerate(parts) if part.replace(".", "").isdigit() and "." in part)
    return ["-".join(parts[:at]), *parts[at:]]


def group(points: dict[str, dict[str, Any]]) -> dict[Key, list[dict[str, Any]]]:
    groups: dict[Key, list[dict[str, Any]]] = defaultdict(list)
    for point in points.values():
        dense, prune = point["steps"]
        key = Key(point["task"], point["structure"], point["sparsity"], point["variant"], (dense, prune))
        groups[key].append(point)
    return groups


def headline(point: dict[str, Any]) -> str:
    """The name of the task's own figure."""
    return next(iter(point["metric"]["dense"]))


def figures(points: list[dict[str, Any]], stage: str = "retrained") -> list[float]:
    return [100 * point["metric"][stage][headline(point)] for point in points]


def cell(points: list[dict[str, Any]] | None, stage: str = "retrained") -> str:
    """`81.2` of one seed, `81.2 ± 0.4 (3)` of three."""
    if not points:
        return ""
    values = figures(points, stage)
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f} ({len(values)})"


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def sections(points: dict[str, dict[str, Any]]) -> list[str]:
    groups = group(points)
    lines: list[str] = []
    for task, steps in sorted({(key.task, key.steps) for key in groups}):
        mine = {key: found for key, found in groups.items() if (key.task, key.steps) == (task, steps)}
        first = next(iter(mine.values()))[0]
        dense = cell([next(iter(found)) for found in mine.values()][:1], "dense")
        lines += [
            "",
            f"### {task}: {steps[1]} steps of retraining, dense model of {steps[0]} steps",
            "",
            f"Dense: {headline(first)} {dense} %. Cells: {headline(first)} in % after retraining; with more "
            "than one seed the mean ± standard deviation and (seeds).",
            "",
        ]
        sparsities = sorted({key.sparsity for key in mine if not key.variant})
        lookup = {(key.structure, key.sparsity, key.variant): found for key, found in mine.items()}
        rows = [
            [name, *(cell(lookup.get((structure, share, ""))) for share in sparsities)]
            for structure, name in NAMES.items()
            if any((structure, share, "") in lookup for share in sparsities)
        ]
        lines += table(["structure", *(f"{100 * share:g} %" for share in sparsities)], rows)
        lines += ["", f"![{task}](pruning/{plot_name(task, steps)})", ""]
        lines += gap_lines(lookup, sparsities, "")
        lines += perplexity_table(lookup, sparsities)
        lines += ["", "Before any retraining:", ""]
        rows = [
            [name, *(cell(lookup.get((structure, share, "")), "one_shot") for share in sparsities)]
            for structure, name in NAMES.items()
            if any((structure, share, "") in lookup for share in sparsities)
        ]
        lines += table(["structure", *(f"{100 * share:g} %" for share in sparsities)], rows)
        lines += ["", "Kilobytes of all pruned weights (float32 values) in each format:", ""]
        lines += size_table(lookup, sparsities)
        lines += budget_table(lookup, sparsities)
        lines += variant_table(lookup)
    return lines


def gap_lines(lookup: dict[Any, list[dict[str, Any]]], sparsities: list[float], variant: str) -> list[str]:
    """How HP stands to BP, block 32x32 and unstructured, where all are there."""
    lines = []
    for share in sparsities:
        wanted = ("hp", "bp", "block32x32", "unstructured")
        have = {name: lookup.get((name, share, variant)) for name in wanted}
        if not all(have.values()):
            continue
        mean = {name: statistics.mean(figures(found)) for name, found in have.items() if found}
        room = mean["unstructured"] - mean["bp"]
        closed = f"; it closes {100 * (mean['hp'] - mean['bp']) / room:.0f} % of the gap" if room > 0 else ""
        lines.append(
            f"- {100 * share:g} %: HP {mean['hp'] - mean['bp']:+.1f} points against BP, "
            f"{mean['hp'] - mean['block32x32']:+.1f} against block 32x32, "
            f"{mean['hp'] - mean['unstructured']:+.1f} against unstructured{closed}."
        )
    return lines


def size_table(lookup: dict[Any, list[dict[str, Any]]], sparsities: list[float]) -> list[str]:
    rows = []
    for structure, name in NAMES.items():
        for share in sparsities:
            found = lookup.get((structure, share, ""))
            if found:
                sizes = found[0]["bytes"]
                rows.append(
                    [
                        name,
                        f"{100 * found[0]['zeros']:.1f}",
                        *(f"{sizes[form] / 1000:.0f}" for form in FORMATS),
                    ]
                )
    return table(["structure", "zeros %", "its own format", "CSR", "BCSR", "bitmap", "COO"], rows)


def perplexity_table(lookup: dict[Any, list[dict[str, Any]]], sparsities: list[float]) -> list[str]:
    """Of a language model, by all that were pruned."""
    told = {key: found for key, found in lookup.items() if "perplexity" in found[0]["metric"]["dense"]}
    if not told:
        return []

    def mean(found: list[dict[str, Any]], stage: str = "retrained") -> str:
        return f"{statistics.mean(point['metric'][stage]['perplexity'] for point in found):.1f}"

    rows = [
        [name + (f", {VARIANTS[variant]}" if variant else ""), f"{100 * share:g} %", mean(told[key])]
        for structure, name in NAMES.items()
        for share in sparsities
        for variant in VARIANTS
        if (key := (structure, share, variant)) in told
    ]
    dense = mean(next(iter(told.values())), "dense")
    return [
        "",
        f"Perplexity, {dense} of the dense model:",
        "",
        *table(["structure", "zeros", "perplexity"], rows),
    ]


def budget_table(lookup: dict[Any, list[dict[str, Any]]], sparsities: list[float]) -> list[str]:
    """Every structure with the same sparsity in all layers, and with budgets by sensitivity."""
    lines: list[str] = []
    for share in sparsities:
        rows = [
            [name, cell(lookup.get((structure, share, ""))), cell(found, "one_shot"), cell(found)]
            for structure, name in NAMES.items()
            if (found := lookup.get((structure, share, "sensitivity")))
        ]
        if len(rows) > 1:
            lines += ["", f"Budgets by sensitivity at {100 * share:g} %:", ""]
            head = ["structure", "uniform budgets", "by sensitivity, before retraining", "after"]
            lines += [*table(head, rows), ""]
            lines += gap_lines(lookup, [share], "sensitivity")
    return lines


def variant_table(lookup: dict[Any, list[dict[str, Any]]]) -> list[str]:
    """How the same structure and sparsity fares by other methods."""
    bases = sorted(
        {(structure, share) for structure, share, variant in lookup if variant and structure == "hp"}
    )
    lines: list[str] = []
    for structure, share in bases:
        rows = [
            [
                text,
                cell(found, "one_shot"),
                cell(found),
                f"{statistics.mean(p['seconds'] for p in found):.0f}",
            ]
            for variant, text in VARIANTS.items()
            if (found := lookup.get((structure, share, variant)))
        ]
        lines += ["", f"{NAMES[structure]} at {100 * share:g} %, by method:", ""]
        lines += table(["method", "before retraining", "after", "seconds (machine shared)"], rows)
    return lines


def plot_name(task: str, steps: tuple[int, int]) -> str:
    return f"{task}-{steps[1]}.png"


def plots(points: dict[str, dict[str, Any]]) -> None:
    """For each task: the figure over sparsity, and over the bytes of each structure's own format."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    groups = group(points)
    for task, steps in sorted({(key.task, key.steps) for key in groups}):
        mine = {
            key: v for key, v in groups.items() if (key.task, key.steps) == (task, steps) and not key.variant
        }
        figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), sharey=True)
        for index, (structure, name) in enumerate(NAMES.items()):
            found = sorted((key.sparsity, v) for key, v in mine.items() if key.structure == structure)
            if not found:
                continue
            means = [statistics.mean(figures(v)) for _, v in found]
            spread = [statistics.stdev(figures(v)) if len(v) > 1 else 0.0 for _, v in found]
            style: Any = {
                "color": f"C{index}", "marker": "osv^D*PX<>"[index],
                "capsize": 2, "label": name, "linewidth": 1,
            }  # fmt: skip
            left.errorbar([100 * share for share, _ in found], means, spread, **style)
            right.errorbar([v[0]["bytes"]["packed"] / 1000 for _, v in found], means, spread, **style)
        first = next(iter(mine.values()))
        for axis in (left, right):
            axis.axhline(figures(first, "dense")[0], color="gray", linestyle="--", linewidth=1, label="dense")
            axis.grid(alpha=0.3)
        left.set(xlabel="zeros, % of the pruned layers", ylabel=f"{headline(first[0])}, %", title=task)
        right.set(xlabel="kB in the structure's own format", xscale="log")
        left.legend(fontsize=7)
        figure.tight_layout()
        figure.savefig(POINTS.parent / plot_name(task, steps), dpi=80, metadata={"Software": None})
        pyplot.close(figure)


def write_page(points: dict[str, dict[str, Any]]) -> None:
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text("\n".join([before + BEGIN, *sections(points), "", END]) + after, encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--collect", type=Path, metavar="RESULTS", help="--out of pruning_experiments.py")
    arguments = parser.parse_args()
    points = json.loads(POINTS.read_text()) if POINTS.exists() else {}
    if arguments.collect:
        print(f"{collect(arguments.collect, points)} points from {arguments.collect}")
        lines = ",\n".join(f" {json.dumps(key)}: {json.dumps(points[key])}" for key in sorted(points))
        POINTS.parent.mkdir(parents=True, exist_ok=True)
        POINTS.write_text("{\n" + lines + "\n}\n", encoding="utf-8")
    write_page(points)
    plots(points)
    return 0


if __name__ == "__main__":
    sys.exit(main())
