"""`espalier run` on a package made by hand."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from espalier.cli.main import run
from espalier.package import Package
from espalier.package.metadata import TargetInfo

pytestmark = pytest.mark.compile


@pytest.fixture
def package(tiny_package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    tiny_package.save("tiny.tar")
    np.savez("in.npz", x=np.arange(24.0).reshape(3, 8) - 12, ids=np.arange(6, dtype="int32").reshape(3, 2))
    return Path("tiny.tar")


def test_inputs_to_outputs(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["run", str(package), "-i", "in.npz", "-o", "out.npz"]) == 0
    out, err = capsys.readouterr()
    assert [line.split() for line in out.splitlines()] == [
        ["output", "shape", "dtype"],
        ["y", "[3,4]", "float32"],
        ["next_ids", "[3,2]", "int64"],
    ]
    assert err == "wrote out.npz\n"
    outputs = np.load("out.npz")
    weight = np.arange(32.0).reshape(8, 4)
    np.testing.assert_allclose(outputs["y"], np.maximum((np.arange(24.0).reshape(3, 8) - 12) @ weight, 0))
    np.testing.assert_array_equal(outputs["next_ids"], np.arange(6).reshape(3, 2) + 1)


def test_json(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["run", str(package), "-i", "in.npz", "-o", "out.npz", "--json", "--profile"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert err == "" and out.count("\n") == 1
    assert result["outputs"] == {
        "y": {"shape": [3, 4], "dtype": "float32"},
        "next_ids": {"shape": [3, 2], "dtype": "int64"},
    }
    assert set(result["time_ms"]) == {"mean", "median", "max", "min", "std", "p95"}
    assert all(value >= 0 for value in result["time_ms"].values()) and result["time_ms"]["min"] > 0
    assert "matmul" in [row["kernel"] for row in result["profile"]]
    assert result["peak"]["gflops"] > 0


def test_times_and_profile(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--print-time", "--repeat", "3", "--number", "2", "--profile", "--threads", "2"]
    assert run(["run", str(package), *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    summary = lines.index("Execution time summary:")
    names = [f"{name} (ms)" for name in ("mean", "median", "max", "min", "std")]
    assert [word.strip() for word in lines[summary + 1].replace(")", ")|").split("|")][:-1] == names
    figures = [float(word) for word in lines[summary + 2].split()]
    assert len(figures) == 5 and figures[3] <= figures[1] <= figures[2]
    table = [line.split() for line in lines]
    assert ["layer", "kernel", "ms", "share"] in table
    assert any(row[:1] == ["matmul"] and row[-1] == "%" for row in table)


def test_made_up_inputs_come_back_with_the_seed(package: Path) -> None:
    def outputs(*options: str) -> np.ndarray:
        assert run(["run", str(package), "-o", "out.npz", "-q", *options]) == 0
        return np.load("out.npz")["next_ids"]

    assert outputs().shape == (1, 64)
    np.testing.assert_array_equal(outputs("--seed", "3"), outputs("--seed", "3"))
    assert not np.array_equal(outputs("--seed", "3"), outputs("--seed", "4"))
    np.testing.assert_array_equal(outputs("--fill-mode", "ones"), np.full((1, 64), 2))
    shapes = ("--input-shapes", "ids:[2,3]")
    np.testing.assert_array_equal(outputs("--fill-mode", "zeros", *shapes), np.ones((2, 3)))


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"arch": "aarch64"}, "it is for aarch64 and this machine is x86_64"),
        ({"features": ("pni", "avx9000")}, "this machine's CPU lacks avx9000"),
    ],
)
def test_a_package_for_another_machine_is_not_loaded(
    package: Path,
    tiny_package: Package,
    change: dict[str, object],
    part: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from espalier.runtime import executor

    target = TargetInfo(**{**tiny_package.metadata.target.model_dump(), **change})
    Package(tiny_package.metadata.model_copy(update={"target": target}), tiny_package.module).save(package)

    def load(module: bytes) -> None:
        raise AssertionError("the module was loaded")

    monkeypatch.setattr(executor, "_load", load)
    assert run(["run", str(package), "-i", "absent.npz", "-o", "out.npz"]) == 5
    err = capsys.readouterr().err
    assert part in err.splitlines()[0] and err.splitlines()[1].startswith("hint: compile the model again")
    assert not Path("out.npz").exists()


def test_a_module_that_is_no_library_is_a_bad_package(
    package: Path, tiny_package: Package, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = {name: getattr(tiny_package.metadata, name) for name in type(tiny_package.metadata).model_fields}
    kept = {name: value for name, value in fields.items() if name not in ("format_version", "members")}
    Package.build(b"no library", **kept).save(package)
    assert run(["run", str(package)]) == 4
    assert "mod.so cannot be loaded" in capsys.readouterr().err


def test_a_process_needs_no_compiler(package: Path) -> None:
    code = """
import sys
from espalier.cli.main import run
assert run(sys.argv[1:]) == 0
loaded = [name for name in ("tvm", "torch", "onnx", "onnxruntime") if name in sys.modules]
assert not loaded, loaded
"""
    arguments = ["run", str(package), "-i", "in.npz", "-o", "out.npz", "--profile", "--print-time"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_an_interruption_stops_at_once_and_leaves_no_file(package: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "espalier",
        "run",
        str(package),
        "-o",
        "out.npz",
        "--repeat",
        "1000000000",
    ]
    process = subprocess.Popen([*command, "-v"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    started = process.stderr.readline()
    assert "espalier.cli.run: running" in started, started
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err == "error: interrupted\nhint: nothing was written; run the same command again\n"
    assert not Path("out.npz").exists()
