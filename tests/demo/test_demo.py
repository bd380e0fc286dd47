"""What ships for the demo, and the demo's own failures. That it runs is tested on the installed wheel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from espalier import api
from espalier.cli.main import run
from espalier.demo import data

pytestmark = pytest.mark.unit


def accuracy(model: Path) -> float:
    images, labels = data.test_set()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    logits = np.asarray(session.run([data.OUTPUT], {data.INPUT: images})[0])
    return float((logits.argmax(axis=1) == labels).mean())


def test_the_models_are_real_and_pruning_cost_little():
    images, labels = data.test_set()
    assert images.shape == (360, 8, 8) and images.dtype == np.float32 and labels.shape == (360,)
    dense, pruned = accuracy(data.dense_model()), accuracy(data.pruned_model())
    assert dense > 0.95 and pruned > 0.95 and pruned > dense - 0.03


def test_the_pruned_model_is_hp_at_90_percent():
    weights = api.inspect(data.pruned_model()).weights
    inner = [weight for weight in weights if weight.name.startswith("layers.")]
    assert len(inner) == 18
    for weight in inner:
        assert weight.structure == "HP" and weight.params["g"] == 4
        assert 0.9 <= weight.sparsity < 0.92
    assert all(weight.structure == "dense" for weight in api.inspect(data.dense_model()).weights)


def test_all_that_ships_is_under_three_megabytes():
    folder = Path(data.__file__).parent
    assert (
        sum(path.stat().st_size for path in folder.iterdir() if path.suffix != ".py" and path.is_file()) < 3e6
    )


def test_a_folder_that_cannot_be_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "inside"):
        assert run(["demo", "-o", str(folder)]) == 2
        printed = capsys.readouterr().err.splitlines()
        assert printed[0].startswith("error: output folder") and printed[1].startswith("hint: ")
