"""The verbs for an FPGA: compile, run on the simulator, profile, and what they say when they cannot."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from espalier.cli.main import run
from espalier.package import Package
from espalier.package.metadata import Metadata
from espalier.runtime import fpga

pytestmark = pytest.mark.compile
TARGET = ["--target", "pynq-z2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """m.onnx: x[40, 64] -> MatMul -> Relu -> MatMul, half of the weights zero; m.tar: compiled."""
    rng = np.random.default_rng(0)
    up, down = (rng.standard_normal(shape).astype("f4") / 8 for shape in ((64, 96), (96, 64)))
    up.reshape(8, 8, 96)[:, 4:] = 0
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "up"], ["a"]),
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("MatMul", ["b", "down"], ["y"]),
        ],
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [40, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [40, 64])],
        [numpy_helper.from_array(up, "up"), numpy_helper.from_array(down, "down")],
    )
    folder = tmp_path_factory.mktemp("fpga")
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / "m.onnx")
    np.savez(folder / "data.npz", x=rng.standard_normal((80, 64)).astype("f4"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run(["compile", "m.onnx", *TARGET, "--calibrate", "data.npz", "-q"]) == 0
    return folder


@pytest.fixture(autouse=True)
def _in_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def test_compile_says_what_it_did(capsys: pytest.CaptureFixture[str]) -> None:
    dumps = ["--dump-code", "isa", "--explain"]
    assert run(["compile", "m.onnx", "-o", "e.tar", *TARGET, *dumps]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[1].split()[0] == "up" and "int8-sparse" in lines[1] and "int8-dense" in lines[1]
    assert lines[-2].startswith("e.tar: 2 linear layers for pynq-z2")
    assert lines[-1].startswith("P8N2T8V8W1 at 125 MHz, predicted: part0 ") and "for 40 tokens" in lines[-1]
    assert "made-up inputs; give --calibrate" in err and "wrote e.isa" in err
    assert "START" in Path("e.isa").read_text()


def test_run_and_profile(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["run", "m.tar", "--json", "--profile", "-o", "out.npz"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["how"] == "predicted" and result["time_ms"]["mean"] > 0
    assert result["outputs"] == {"y": {"shape": [40, 64], "dtype": "float32"}}
    rows = [row for row in result["profile"] if "cycles" in row]
    assert [row["layer"] for row in rows] == [None, "up", "down", None]
    assert all(row["cycles"] > 0 and row["bytes"] > 0 for row in rows)
    assert rows[1]["utilisation"].endswith(" %")
    assert run(["run", "m.tar", "--print-time", "--profile", "--device", "functional"]) == 0
    out = capsys.readouterr().out
    assert "predicted; the host's steps are not counted" in out and "utilisation" in out


def test_a_device_of_another_kind_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["run", "m.tar", "--device", "cpu"]) == 2
    assert "runs no package for the kind 'fpga'" in capsys.readouterr().err
    assert run(["run", "m.tar", "--device", "rlt"]) == 2
    assert "did you mean rtl" in capsys.readouterr().err


def test_missing_tools_are_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(Path.cwd() / "empty"))
    for device, tool in (("functional", "g++"), ("rtl", "verilator")):
        assert run(["run", "m.tar", "--device", device]) == 5
        err = capsys.readouterr().err
        assert f"{tool} is not installed" in err and f"apt-get install {tool}" in err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--calibrate", "absent.npz"], 4, "npz file absent.npz"),
        (["--calibrate", "wrong.npz"], 4, "'z'"),
        (["--target", "zcu105"], 2, "unknown target 'zcu105'"),
        (["--dump-code", "isa", "--target", "host"], 2, "has no 'isa'"),
    ],
)
def test_what_is_wrong_is_one_line(
    arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez("wrong.npz", z=np.zeros((40, 64), "f4"))
    assert run(["compile", "m.onnx", "-o", "w.tar", *TARGET, *arguments]) == code
    err = capsys.readouterr().err.splitlines()
    assert err[0].startswith("error: ") and message in err[0] and err[1].startswith("hint: ")
    assert not Path("w.tar").exists()


def test_a_damaged_program_is_a_fault_with_its_number(capsys: pytest.CaptureFixture[str]) -> None:
    good = Package.load("m.tar")
    stream = bytearray(good.images["program.bin"])
    stream[16:32] = bytes(16)
    kept = {
        name: getattr(good.metadata, name)
        for name in Metadata.model_fields
        if name not in ("format_version", "members")
    }
    Package.build(good.module, {**good.images, "program.bin": bytes(stream)}, **kept).save("bad.tar")
    assert run(["run", "bad.tar"]) == 4
    assert "stopped: fault" in capsys.readouterr().err
    assert fpga.DEVICES[0] == "functional"
