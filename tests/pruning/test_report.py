"""pruning_experiments.py and pruning_report.py: the grid, what counts as done, and the page made from it."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from espalier.errors import DataError
from espalier.pruning.families import parse_family

pytestmark = pytest.mark.unit

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def experiments() -> Iterator[ModuleType]:
    yield script("pruning_experiments")


@pytest.fixture(scope="module")
def report() -> Iterator[ModuleType]:
    yield script("pruning_report")


def result(accuracy: float, structure: str, sparsity: float, seed: int) -> dict[str, Any]:
    """As prune_task writes it, with one layer."""
    sizes = {
        "dense": 4000,
        "packed": 1100,
        "csr": 2000,
        "bcsr": 2500,
        "bitmap": 1300,
        "coo": 3000,
        "hp": None,
    }
    return {
        "task": "toy",
        "options": {"structure": structure, "sparsity": sparsity, "seed": seed},
        "layers": [{"bytes": sizes}],
        "sparsity": {"pruned_layers": sparsity},
        "metric": {
            "dense": {"accuracy": 0.9}, "one_shot": {"accuracy": 0.5}, "retrained": {"accuracy": accuracy},
        },
        "steps": {"dense": 10, "prune": 5},
        "seconds": {"prune": 3.2},
        "versions": {"torch": "2"},
    }  # fmt: skip


def test_every_point_of_the_grid_is_a_structure_and_has_a_name_of_its_own(experiments: ModuleType) -> None:
    points = experiments.grid(["sst-2", "digits"], 2)
    labels = [point.label for point in points]
    assert len(set(labels)) == len(labels) and "sst-2/hp-0.9-1" in labels
    for point in points:
        structure = parse_family(point.options.structure).at((1200, 1200), point.options.sparsity)
        assert abs(structure.sparsity((1200, 1200)) - point.options.sparsity) < 0.05, point.label
    seeds = [point.options.seed for point in points]
    assert seeds == sorted(seeds)


def test_a_result_made_with_other_options_is_not_taken_for_done(
    experiments: ModuleType, tmp_path: Path
) -> None:
    options = experiments.grid(["digits"], 1)[0].options
    path = tmp_path / "point.json"
    assert not experiments.done(path, options)
    path.write_text(json.dumps({"options": {**options.__dict__, "steps": 7}}))
    with pytest.raises(DataError, match="steps was 7, expected None"):
        experiments.done(path, options)


@pytest.mark.parametrize(
    ("stem", "parts"),
    [
        ("hp-0.9-0", ["hp", "0.9", "0"]),
        ("hp-g4-0.8-nodistil-12", ["hp-g4", "0.8", "nodistil", "12"]),
        ("bp+pp-0.95-2", ["bp+pp", "0.95", "2"]),
    ],
)
def test_names_of_points_come_apart(report: ModuleType, stem: str, parts: list[str]) -> None:
    assert report.split_name(stem) == parts


def test_the_page_tells_means_spread_seeds_and_the_gap(
    report: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "grid" / "toy").mkdir(parents=True)
    for name, structure, accuracy, seed in (
        ("hp", "hp", 0.80, 0), ("hp", "hp", 0.82, 1), ("bp", "bp", 0.75, 0),
        ("unstructured", "unstructured", 0.85, 0), ("block32x32", "block(bh=32,bw=32)", 0.6, 0),
    ):  # fmt: skip
        told = result(accuracy, structure, 0.9, seed)
        (tmp_path / "grid" / "toy" / f"{name}-0.9-{seed}.json").write_text(json.dumps(told))
    told = result(0.7, "hp", 0.9, 0)
    (tmp_path / "grid" / "toy" / "hp-0.9-nodistil-0.json").write_text(json.dumps(told))
    page = tmp_path / "page.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    monkeypatch.setattr(report, "PAGE", page)
    monkeypatch.setattr(report, "POINTS", tmp_path / "pruning" / "points.json")
    monkeypatch.setattr("sys.argv", ["report", "--collect", str(tmp_path / "grid")])
    assert report.main() == 0
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "| HP 2 of 4 | 81.0 ± 1.4 (2) |" in text and "| BP | 75.0 |" in text
    assert "HP +6.0 points against BP, +21.0 against block 32x32, -4.0 against unstructured" in text
    assert "it closes 60 % of the gap" in text
    assert "| reconstruction, no distillation | 50.0 | 70.0 | 3 |" in text
    assert "| BP | 90.0 | 1 | 2 | 2 | 1 | 3 |" in text
    assert (tmp_path / "pruning" / "toy-5.png").read_bytes()[:4] == b"\x89PNG"
    kept = json.loads((tmp_path / "pruning" / "points.json").read_text())
    assert len(kept) == 6 and kept["toy/hp-0.9-1/10+5"]["seed"] == 1
    monkeypatch.setattr("sys.argv", ["report"])
    assert report.main() == 0 and page.read_text() == text
