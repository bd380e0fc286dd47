"""`espalier tune`, and `espalier compile --tuning-records`, on a small model."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import espalier as es
from espalier.cli.main import run
from espalier.cli.tune import progress_text
from espalier.package import Package
from espalier.search.record_file import HEADER, parse_records, read_records, whole_lines
from espalier.search.tune import Progress
from espalier.targets.host import host

pytestmark = [pytest.mark.compile, pytest.mark.xdist_group("tune")]

TRIALS = 14


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """m.onnx: x[batch, length, 64] -> two equal layers and a 2:4 one; r: its records."""
    random = np.random.default_rng(0)
    weights = {name: random.standard_normal((64, 64)).astype("float32") for name in ("a", "b")}
    weights["c"] = random.standard_normal((64, 32)).astype("float32")
    weights["c"].reshape(16, 4, 32)[:, 2:] = 0
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "a"], ["p"]),
            helper.make_node("MatMul", ["p", "b"], ["q"]),
            helper.make_node("MatMul", ["q", "c"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "length", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "length", 32])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    folder = tmp_path_factory.mktemp("tune")
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=9), folder / "m.onnx")
    es.tune(folder / "m.onnx", folder / "r", threads=1, trials=TRIALS)
    return folder


@pytest.fixture(autouse=True)
def _in_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def test_records_decide_what_is_compiled(capsys: pytest.CaptureFixture[str]) -> None:
    records = read_records(Path("r"))
    times: dict[int, dict[str, float]] = {}
    for record in records:
        times.setdefault(record.work.n, {})[record.kernel] = record.milliseconds
    assert len(records) == TRIALS
    assert times.keys() == {64, 32}
    options = ["--tuning-records", "r", "--threads", "1"]
    assert run(["compile", "m.onnx", "-o", "t.tar", "--json", *options]) == 0
    layers = json.loads(capsys.readouterr().out)["layers"]
    for layer, n in zip(layers, (64, 64, 32), strict=True):
        assert layer["how"] == "measured"
        assert times[n][layer["kernel"]] == min(times[n].values())
        assert layer["candidates"][layer["kernel"]] == times[n][layer["kernel"]]
    x = np.random.default_rng(1).standard_normal((2, 19, 64)).astype("float32")
    (wanted,) = onnxruntime.InferenceSession("m.onnx").run(None, {"x": x})
    np.testing.assert_allclose(
        Package.load("t.tar").run({"x": x})["y"], wanted, atol=1e-5 * np.abs(wanted).max()
    )
    assert run(["compile", "m.onnx", "-o", "e.tar", "--explain", *options]) == 0
    assert "(measured)" in capsys.readouterr().out
    assert Path("t.tar").read_bytes() == Path("e.tar").read_bytes()


def test_records_of_other_threads_measure_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compile", "m.onnx", "-o", "o.tar", "--json", "--tuning-records", "r", "--threads", "2"]) == 0
    assert {layer["how"] for layer in json.loads(capsys.readouterr().out)["layers"]} == {"predicted"}


def test_it_goes_on_and_tells_what_it_found(capsys: pytest.CaptureFixture[str]) -> None:
    before = read_records(Path("r"))
    assert run(["tune", "m.onnx", "-o", "r", "--threads", "1", "--trials", str(TRIALS + 3), "--json"]) == 0
    printed = capsys.readouterr()
    told = json.loads(printed.out)
    assert printed.err == ""
    assert (told["records"], told["trials"], told["threads"]) == ("r", TRIALS + 3, 1)
    assert [task["layers"] for task in told["tasks"]] == [2, 1]
    assert all(task["best"]["ms"] <= task["untuned"]["ms"] for task in told["tasks"])
    after = {record.key for record in read_records(Path("r"))}
    assert len(after) == TRIALS + 3
    assert after > {record.key for record in before}
    Path("r").write_text("\n".join([HEADER, *(record.line() for record in before), ""]))


def test_tasks_are_listed_and_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["tune", "m.onnx", "--tasks", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["tasks"]
    assert [(one["task"], one["layers"], one["structure"][:5]) for one in listed] == [
        (0, 2, "dense"),
        (1, 1, "2:4(g"),
    ]
    assert run(["tune", "m.onnx", "-o", "one", "--threads", "1", "--trials", "3", "--tasks", "1"]) == 0
    printed = capsys.readouterr()
    assert "2:4" in printed.out and "dense  " not in printed.out
    assert "3 kernels measured" in printed.out and "wrote one" in printed.err
    assert {record.work.n for record in read_records(Path("one"))} == {32}
    assert run(["tune", "m.onnx", "--tasks", "0-2"]) == 2
    assert "there is no task 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["none.onnx"], 3, "none.onnx"),
        (["m.onnx", "-o", "."], 2, "is a folder"),
        (["m.onnx", "-o", "m.onnx"], 2, "would overwrite"),
        (["m.onnx", "-o", "text"], 4, "no file of records"),
        (["m.onnx", "--trials", "0"], 2, "--trials"),
        (["m.onnx", "--minutes", "soon"], 2, "--minutes"),
        (["m.onnx", "--minutes", "nan"], 2, "--minutes"),
        (["m.onnx", "--tasks", "3-1"], 2, "--tasks"),
        (["m.onnx", "--tasks", "all"], 2, "--tasks"),
        (["m.onnx", "--target", "znver5"], 5, "cannot be timed here"),
        (["m.onnx", "--target", "zcu104"], 2, "no settings to tune"),
        (["m.onnx", "--rpc-key", "k"], 2, "go together"),
        (["m.onnx", "--rpc-tracker", "h:1", "--rpc-key", "k"], 2, "no --target"),
        (["m.onnx", "--rpc-tracker", "h", "--rpc-key", "k", "--target", "znver1"], 2, "host:port"),
        (["m.onnx", "--rpc-tracker", "localhost:1", "--rpc-key", "k", "--target", "znver1"], 5, "no machine"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(
    arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("text").write_text("text\n")
    if arguments[-1] == "znver5" and host().isa == "avx512":
        pytest.skip("this machine runs it")
    assert run(["tune", *arguments]) == code
    error, hint = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ") and message in error and hint.startswith("hint: ")


@pytest.mark.parametrize(
    ("content", "code"),
    [(None, 4), ("text", 4), (f"{HEADER}\n[]\n", 4), (f"{HEADER}\n", 7), ("other core", 7)],
)
def test_records_that_do_not_fit(content: str | None, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path("wrong")
    path.unlink(missing_ok=True)
    if content == "other core":
        content = Path("r").read_text().replace(f'"core":"{host().mcpu}"', '"core":"z80"')
    if content is not None:
        path.write_text(content)
    assert run(["compile", "m.onnx", "-o", "w.tar", "--tuning-records", "wrong"]) == code
    error, hint = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ") and hint.startswith("hint: ")
    assert not Path("w.tar").exists()


def test_an_interruption_keeps_everything() -> None:
    command = [
        sys.executable,
        "-m",
        "espalier",
        "tune",
        "m.onnx",
        "-o",
        "i",
        "--threads",
        "1",
        "--minutes",
        "5",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline and (not Path("i").exists() or Path("i").stat().st_size < 500):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=100)
    assert (process.returncode, out) == (130, "")
    kept = read_records(Path("i"))
    assert err == (
        f"error: interrupted; {len(kept)} measured kernels are kept in i\n"
        "hint: run the same command again to go on\n"
    )
    assert es.tune("m.onnx", "i", threads=1, trials=len(kept)).trials == len(kept)


def test_killed_in_the_middle_nothing_is_lost() -> None:
    command = ["-m", "espalier", "tune", "m.onnx", "-o", "k", "--threads", "1", "--minutes", "5"]
    process = subprocess.Popen([sys.executable, *command], stderr=subprocess.PIPE)
    path, deadline = Path("k"), time.monotonic() + 100
    while time.monotonic() < deadline and (not path.exists() or path.stat().st_size < 900):
        time.sleep(0.02)
    process.kill()
    assert process.wait(timeout=20) == -signal.SIGKILL
    written = path.read_bytes()
    kept = parse_records(whole_lines(written), "k")
    assert len(kept) > 1
    path.write_bytes(whole_lines(written) + b'{"core":"cut o')  # as if it had come a moment earlier
    assert es.tune("m.onnx", "k", threads=1, trials=len(kept) + 2).trials == len(kept) + 2
    assert path.read_bytes().startswith(whole_lines(written))
    assert len(read_records(path)) == len(kept) + 2


@pytest.mark.slow
def test_another_machine_is_tuned_for(tracker: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--target", host().mcpu, "--threads", "1", "--trials", "4", "--json"]
    reach = ["--rpc-tracker", tracker, "--rpc-key", "here"]
    assert run(["tune", "m.onnx", "-o", "far", *options, *reach]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["trials"] == len(read_records(Path("far"))) == 4
    assert all(task["best"]["ms"] > 0 for task in told["tasks"])
    assert run(["tune", "m.onnx", "-o", "far", *options, *reach[:3], "hare"]) == 5
    assert "no machine 'hare'" in json.loads(capsys.readouterr().out)["error"]["message"]


def test_progress_tells_the_best_so_far_and_the_time_left() -> None:
    text = progress_text(Progress(20, 50, 125.4, 2.0, 1.5, "up"))
    assert text == "20 kernels  best 1.500 ms, 25.0 % under 2.000 ms  2:05 left  up"
