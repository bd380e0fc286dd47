from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from espalier.errors import StoppedError, UsageError
from espalier.pruning.pipeline import METHODS, PruneOptions, prune_task
from espalier.pruning.tasks.task import Task
from espalier.sparsity import HP

pytestmark = pytest.mark.unit

OPTIONS = PruneOptions(structure="hp(B=8,v=4,n=2)", sparsity=0.75, steps=200)


@pytest.fixture
def no_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's exporter takes seconds; most tests here do not need it."""

    def fake(_model: object, _task: Task, output: Path) -> float:
        output.write_bytes(b"")
        return 0.0

    monkeypatch.setattr("espalier.pruning.pipeline.export_checked", fake)


class Stages:
    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []
        self.told: dict[str, dict[str, float]] = {}

    def step(self, stage: str, step: int, steps: int, loss: float) -> None:
        assert 1 <= step <= steps and np.isfinite(loss)
        self.seen.append((stage, step))

    def figures(self, stage: str, figures: dict[str, float]) -> None:
        self.told[stage] = figures


def test_writes_a_pruned_model_and_tells_how_it_was_made(blobs: Task, tmp_path: Path) -> None:
    watch = Stages()
    output = tmp_path / "pruned.onnx"
    result = prune_task(blobs, OPTIONS, output, watch=watch)
    stored = {t.name: numpy_helper.to_array(t) for t in onnx.load(output).graph.initializer}
    weight = stored["0.weight"]
    assert HP(8, 8, 4, 2).fits(weight if weight.shape == (32, 16) else weight.T)
    told = json.loads((tmp_path / "pruned.json").read_text())
    assert told == json.loads(json.dumps(result.to_dict()))
    assert [layer["structure"] for layer in told["layers"]] == [
        "HP(B=8,kc=8,v=4,n=2)",
        "HP(B=8,kc=16,v=4,n=2)",
    ]
    assert told["sparsity"]["pruned_layers"] == 0.75 and told["options"]["seed"] == 0
    assert told["onnx_error"] < 1e-5 and told["versions"]["torch"]
    metric = told["metric"]
    assert metric["retrained"]["accuracy"] > metric["one_shot"]["accuracy"]
    assert watch.told == {
        "dense": metric["dense"], "one-shot": metric["one_shot"], "retrained": metric["retrained"],
        "prune": metric["retrained"],
    }  # fmt: skip
    assert watch.seen == [("dense", i + 1) for i in range(60)] + [("prune", i + 1) for i in range(200)]
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "pruned.dense.pt",
        "pruned.json",
        "pruned.onnx",
    ]


@pytest.mark.usefixtures("no_export")
@pytest.mark.parametrize("stop_at", [7, 60, 100])
def test_a_stopped_run_goes_on_to_the_same_result(blobs: Task, tmp_path: Path, stop_at: int) -> None:
    straight = prune_task(blobs, OPTIONS, tmp_path / "a.onnx")
    calls = 0

    def stop() -> bool:
        nonlocal calls
        calls += 1
        return calls == stop_at

    with pytest.raises(StoppedError):
        prune_task(blobs, OPTIONS, tmp_path / "b.onnx", stop=stop)
    assert not (tmp_path / "b.onnx").exists()
    resumed = prune_task(blobs, OPTIONS, tmp_path / "b.onnx")
    assert resumed.metric == straight.metric and resumed.layers == straight.layers


@pytest.mark.usefixtures("no_export")
def test_dense_weights_are_kept_and_shared(blobs: Task, tmp_path: Path) -> None:
    dense = tmp_path / "dense.pt"
    prune_task(blobs, OPTIONS, tmp_path / "a.onnx", dense=dense)
    watch = Stages()
    prune_task(blobs, OPTIONS, tmp_path / "b.onnx", dense=dense, watch=watch)
    assert {stage for stage, _ in watch.seen} == {"prune"}


@pytest.mark.usefixtures("no_export")
def test_sensitivity_meets_the_budget_with_unequal_shares(blobs: Task, tmp_path: Path) -> None:
    options = PruneOptions(structure="unstructured", sparsity=0.8, steps=20, allocation="sensitivity")
    result = prune_task(blobs, options, tmp_path / "a.onnx")
    weights = sum(layer.shape[0] * layer.shape[1] for layer in result.layers)
    gone = sum(layer.sparsity * layer.shape[0] * layer.shape[1] for layer in result.layers)
    assert gone / (32 * 16 + 32 * 24) >= 0.8 - 1e-3 and weights <= 32 * 16 + 32 * 24


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"structure": "hpp("}, "structure 'hpp(' is unknown"),
        ({"method": "gradul"}, "method 'gradul' is unknown"),
        ({"criterion": "size"}, "criterion 'size' is unknown"),
        ({"allocation": "fair"}, "allocation 'fair' is unknown"),
        ({"sparsity": 1.0}, "sparsity is 1, expected between 0 and 1"),
        ({"sparsity": float("nan")}, "sparsity is nan"),
        ({"structure": "nm", "sparsity": 0.9}, "structure nm cannot be pruned to 0.9, the nearest is 0.75"),
        ({"structure": "nm", "method": "lasso", "sparsity": 0.5}, "group lasso prunes whole columns"),
        ({"criterion": "movement"}, "criterion movement needs gradients, which method layerwise has none of"),
        ({"distil": 1.5}, "distil is 1.5, expected from 0 to 1"),
        ({"rate": -1.0}, "rate is -1, expected above 0"),
    ],
)
def test_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("(", r"\(")):
        PruneOptions(**options)


def test_each_method_has_its_own_criterion() -> None:
    chosen = {method: PruneOptions(method=method).criterion for method in METHODS}
    assert chosen.pop("layerwise") == "reconstruction" and set(chosen.values()) == {"magnitude"}
    assert PruneOptions(criterion="wanda").criterion == "wanda"


@pytest.mark.usefixtures("no_export")
def test_without_export_only_the_json_is_left(blobs: Task, tmp_path: Path) -> None:
    watch = Stages()
    result = prune_task(
        blobs, OPTIONS, tmp_path / "a.onnx", export=False, evaluations=0, share=True, watch=watch
    )
    assert result.onnx_error is None and set(watch.told) == {"dense", "one-shot", "retrained"}
    names = [file.name.split(".")[-1] for file in sorted(tmp_path.iterdir())]
    assert names == ["npy", "pt", "json"]  # lessons and dense weights for other runs


@pytest.mark.usefixtures("no_export")
@pytest.mark.parametrize("method", METHODS)
def test_every_method_ends_in_the_structure(blobs: Task, tmp_path: Path, method: str) -> None:
    options = PruneOptions(structure="hp(B=8)", sparsity=0.75, method=method, steps=30)
    result = prune_task(blobs, options, tmp_path / "a.onnx")
    assert [layer.structure for layer in result.layers] == ["HP(B=8,kc=8,v=4,n=2)", "HP(B=8,kc=16,v=4,n=2)"]
    assert [layer.sparsity for layer in result.layers] == [0.75, 0.75]


class WithEmbedding(nn.Module):
    """Buckets of the first feature are embedded; a head on top."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(16, 16)
        self.body = nn.Linear(16, 16)
        self.head = nn.Linear(16, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        buckets = (x[:, 0] * 4).long().clamp(-8, 7) + 8
        return self.head(torch.relu(self.body(x + self.embedding(buckets))))


@pytest.mark.usefixtures("no_export")
@pytest.mark.parametrize(
    ("heads", "embeddings", "expected"),
    [
        (False, False, ["body"]),
        (True, False, ["body", "head"]),
        (True, True, ["embedding", "body", "head"]),
    ],
)
def test_heads_and_embeddings_by_choice(
    blobs: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    heads: bool, embeddings: bool, expected: list[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(blobs, "model", WithEmbedding)
    monkeypatch.setattr(blobs, "leave", ("head",), raising=False)
    options = PruneOptions(
        structure="unstructured", sparsity=0.5, steps=2, dense_steps=2, heads=heads, embeddings=embeddings
    )
    result = prune_task(blobs, options, tmp_path / "a.onnx")
    assert [layer.name for layer in result.layers] == [f"{name}.weight" for name in expected]
