"""`espalier prune` from the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from espalier.cli.main import run
from espalier.sparsity.detection import detect

pytestmark = pytest.mark.unit

SHORT = ["prune", "--task", "digits", "--steps", "40", "--json"]


@pytest.mark.parametrize(
    ("arguments", "code", "error", "hint"),
    [
        ([], 2, "no task is given", "espalier prune --task digits"),
        (["digit"], 2, "task 'digit' is unknown", "did you mean digits?"),
        (["."], 2, ". is a model, but no task says how to retrain it", "--task"),
        (["--task", "sst-2"], 4, "task sst-2 needs train.tsv", "https://gluebenchmark.com"),
        (["--task", "wikitext-2", "--data", "nowhere"], 4, "nowhere/train.txt does not exist", "https://"),
        (["digits", "--structure", "hpp"], 2, "structure 'hpp' is unknown", "hp"),
        (["digits", "--structure", "hp(B=0)"], 2, "B is '0'", "B=32"),
        (["digits", "--sparsity", "1"], 2, "sparsity is 1, expected between 0 and 1", "--sparsity 0.9"),
        (["digits", "--sparsity", "much"], 2, "'much' is not a valid float", "--help"),
        (["digits", "--method", "magic"], 2, "--method: unknown value 'magic'", "gradual"),
        (["digits", "--distil", "2"], 2, "distil is 2, expected from 0 to 1", "share"),
        (["digits", "--steps", "0"], 2, "--steps: got '0'", "whole number"),
        (["digits", "-o", "no/such/folder/x.onnx"], 2, "its folder does not exist", "folder"),
        (["digits", "--leave", "*"], 2, "the model has no layer to prune", "--leave"),
        (
            ["digits", "--method", "lasso", "--structure", "unstructured"],
            2,
            "group lasso prunes whole columns",
            "--structure",
        ),
    ],
)
def test_refuses(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    error: str,
    hint: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["prune", *arguments]) == code
    shown = capsys.readouterr()
    first, second = shown.err.strip().split("\n")
    assert shown.out == "" and first.startswith("error: ") and error in first
    assert second.startswith("hint: ") and hint in second
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", [[], ["--dense", "kept"]])
def test_an_output_that_is_a_folder_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], option: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    name = option[1] if option else "digits-hp.onnx"
    (tmp_path / name).mkdir()
    assert run(["prune", "digits", *option]) == 2
    assert f"error: output {name} is a folder" in capsys.readouterr().err


def test_prunes_digits_and_says_so_as_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """40 steps only: enough to see that all is joined up; the accuracy is tested below."""
    monkeypatch.chdir(tmp_path)
    assert run(SHORT) == 0
    shown = capsys.readouterr()
    told = json.loads(shown.out)
    assert shown.err == "" and told["model"] == "digits-hp.onnx"
    kept = json.loads((tmp_path / "digits-hp.json").read_text())
    assert {**kept, "model": told["model"]} == told
    assert told["sparsity"]["pruned_layers"] == pytest.approx(0.9, abs=0.01)
    assert told["metric"]["dense"]["accuracy"] > 0.96 and told["onnx_error"] < 1e-4
    stored = {
        t.name: numpy_helper.to_array(t) for t in onnx.load(tmp_path / "digits-hp.onnx").graph.initializer
    }
    for layer in told["layers"]:
        found = detect(stored[layer["name"]].T)
        assert found.remainder is None and found.structure.label() == layer["structure"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["digits-hp.json", "digits-hp.onnx"]


def test_digits_at_90_percent_keep_their_accuracy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole default run: half a minute of one core."""
    command = ["prune", "--task", "digits", "--structure", "hp", "--sparsity", "0.9", "--json"]
    assert run([*command, "-o", str(tmp_path / "d.onnx")]) == 0
    metric = json.loads(capsys.readouterr().out)["metric"]
    assert metric["retrained"]["accuracy"] > 0.94 > metric["one_shot"]["accuracy"]


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_goes_on_to_the_same_weights(tmp_path: Path, how: signal.Signals) -> None:
    """Killed as soon as there is a checkpoint, then run again; against a run in one piece."""
    program = (
        "import sys, espalier.pruning.train as t; t.Checkpoint.__init__.__defaults__ = (0.5,); "
        "from espalier.cli.main import run; sys.exit(run(sys.argv[1:]))"
    )

    def command(name: str) -> list[str]:
        return [sys.executable, "-c", program, *SHORT, "-o", str(tmp_path / name)]

    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command("straight.onnx"), check=True, env=environment, capture_output=True)
    process = subprocess.Popen(
        command("killed.onnx"), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 300
    while not (tmp_path / "killed.checkpoint.pt").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(how)
    _, error = process.communicate()
    assert process.returncode == (130 if how == signal.SIGINT else -signal.SIGKILL)
    assert how == signal.SIGKILL or b"the work so far is kept" in error
    assert not (tmp_path / "killed.onnx").exists()
    subprocess.run(command("killed.onnx"), check=True, env=environment, capture_output=True)
    straight, killed = (
        onnx.load(tmp_path / f"{name}.onnx").graph.initializer for name in ("straight", "killed")
    )
    assert len(straight) == len(killed)
    for a, b in zip(straight, killed, strict=True):
        assert a.name == b.name and np.array_equal(numpy_helper.to_array(a), numpy_helper.to_array(b))
