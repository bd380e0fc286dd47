"""The same pipeline on a GPU; skipped where there is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from espalier.errors import StoppedError
from espalier.pruning.pipeline import PruneOptions, prune_task
from espalier.pruning.tasks.digits import Digits

pytestmark = [pytest.mark.gpu, pytest.mark.slow]


class Devices:
    """Notes where the model lies whenever it is told figures."""

    def __init__(self) -> None:
        self.peak: list[int] = []

    def step(self, stage: str, step: int, steps: int, loss: float) -> None:
        self.peak.append(torch.cuda.max_memory_allocated())

    def figures(self, stage: str, figures: dict[str, float]) -> None: ...


@pytest.mark.parametrize(
    ("method", "criterion"),
    [("gradual", "magnitude"), ("layerwise", "reconstruction"), ("lasso", "magnitude"), ("admm", "magnitude"),
     ("one-shot", "wanda"), ("gradual", "movement")],
)  # fmt: skip
def test_every_method_trains_on_the_gpu_and_exports(tmp_path: Path, method: str, criterion: str) -> None:
    options = PruneOptions(sparsity=0.8, method=method, criterion=criterion, steps=40)
    watch = Devices()
    result = prune_task(Digits(), options, tmp_path / "d.onnx", watch=watch, share=True)
    assert min(watch.peak) > 0 and result.onnx_error is not None and result.onnx_error < 1e-4
    assert json.loads((tmp_path / "d.json").read_text())["metric"]["retrained"]["accuracy"] > 0.8


def test_sensitivity_is_measured_on_the_gpu(tmp_path: Path) -> None:
    options = PruneOptions(structure="unstructured", sparsity=0.8, allocation="sensitivity", steps=5)
    result = prune_task(Digits(), options, tmp_path / "d.onnx", export=False)
    assert result.sparsity["pruned_layers"] > 0.78


def test_a_stopped_run_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    options = PruneOptions(sparsity=0.8, steps=20)
    straight = prune_task(Digits(), options, tmp_path / "a.onnx", export=False)
    calls = 0

    def stop() -> bool:
        nonlocal calls
        calls += 1
        return calls == 12

    with pytest.raises(StoppedError):
        prune_task(Digits(), options, tmp_path / "b.onnx", export=False, stop=stop)
    resumed = prune_task(Digits(), options, tmp_path / "b.onnx", export=False)
    gap = abs(resumed.metric["retrained"]["accuracy"] - straight.metric["retrained"]["accuracy"])
    assert gap <= 0.01  # sums on a GPU may run in another order
