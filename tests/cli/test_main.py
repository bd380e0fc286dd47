"""The command itself: help, versions, failures, and what it must not import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from espalier.cli import main as main_module
from espalier.cli.main import VERBS, run

pytestmark = pytest.mark.unit


def spawn(*arguments: str, **more: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "espalier", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, **more)  # type: ignore[call-overload]


def test_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    out, err = capsys.readouterr()
    assert not err
    for verb in VERBS:
        assert f"\n  {verb} " in out


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_and_the_common_options(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([verb, "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"Usage: espalier {verb}")
    for option in ("--json", "-v, --verbose", "-q, --quiet", "--version"):
        assert option in out


HEAVY = ("tvm", "tvm_ffi", "numpy", "onnx", "onnxruntime", "torch", "rich", "pydantic")


@pytest.mark.parametrize("arguments", [["--help"], *([verb, "--help"] for verb in VERBS), ["--version"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = f"""
import sys
from espalier.cli.main import run
assert run({arguments}) == 0
heavy = [name for name in {HEAVY} if name in sys.modules]
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("arguments", [["--version"], ["run", "--version"]])
def test_version(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    from importlib.metadata import version

    assert run(arguments) == 0
    assert capsys.readouterr().out == f"espalier {version('tvm-espalier')}\n"


def test_a_process_fails_with_two_lines_and_the_code(tmp_path: Path) -> None:
    done = spawn("run", "absent.tar", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.splitlines() == [
        "error: package absent.tar: No such file or directory",
        "hint: give the path of a package that exists and can be read",
    ]


@pytest.mark.parametrize(
    "arguments", [["run", "absent.tar", "--json"], ["--json", "run"], ["run", "--foo", "--json"]]
)
def test_with_json_a_failure_is_one_object(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code = run(arguments)
    out, err = capsys.readouterr()
    error = json.loads(out)["error"]
    assert error["code"] == code and error["kind"] in ("usage", "data")
    assert err == f"error: {error['message']}\nhint: {error['hint']}\n"


def test_no_verb_prints_the_help_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "Usage: espalier" in err and "\nerror: no verb is given\nhint: " in err


@pytest.fixture
def failing_verb(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Replaces `devices` by a verb that raises what the test asks for."""
    from espalier.cli import devices
    from espalier.cli.options import Output, common

    @click.command()
    @common
    def command(output: Output) -> None:
        raise request.param

    monkeypatch.setattr(devices, "command", command)


@pytest.mark.parametrize("failing_verb", [ZeroDivisionError("division\nby zero")], indirect=True)
@pytest.mark.usefixtures("failing_verb")
@pytest.mark.parametrize(("flag", "traceback"), [("-q", False), ("-v", False), ("-vv", True)])
def test_a_bug_is_reported_as_one(flag: str, traceback: bool, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["devices", flag]) == 1
    err = capsys.readouterr().err
    assert "error: internal error: ZeroDivisionError: division by zero\nhint: this is a bug" in err
    assert ("Traceback" in err) is traceback


@pytest.mark.parametrize("failing_verb", [KeyboardInterrupt(), click.Abort()], indirect=True)
@pytest.mark.usefixtures("failing_verb")
def test_an_interruption_is_130(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["devices"]) == 130
    assert capsys.readouterr().err.startswith("error: interrupted\nhint: ")


SWALLOWED = """
import signal, sys, types
import click
from espalier.cli.main import run
from espalier.cli.options import common

@click.command()
@common
def command(output):
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        raise RuntimeError("as TVM does") from None

sys.modules["espalier.cli.devices"] = types.SimpleNamespace(command=command)
before = signal.getsignal(signal.SIGINT)
code = run(["devices"])
assert signal.getsignal(signal.SIGINT) is before
sys.exit(code)
"""


def test_an_interruption_that_other_code_swallows_is_130() -> None:
    # in a process of its own: pytest may not run tests in the thread that gets signals
    done = subprocess.run([sys.executable, "-c", SWALLOWED], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr.startswith("error: interrupted\nhint: ")


@pytest.mark.parametrize(("code", "options"), [(2, ["--foo"]), (0, ["-q"]), (0, ["-vv"])])
def test_main_exits_with_the_code(monkeypatch: pytest.MonkeyPatch, code: int, options: list[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["espalier", "devices", *options])
    with pytest.raises(SystemExit) as caught:
        main_module.main()
    assert caught.value.code == code


def test_a_reader_that_leaves_is_no_failure() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.run(
        [sys.executable, "-m", "espalier", "devices"], stdout=writer, stderr=subprocess.PIPE, check=False
    )
    os.close(writer)
    assert (process.returncode, process.stderr) == (0, b"")


def test_no_colour_without_a_terminal() -> None:
    for arguments in (["devices"], ["devices", "znver1"], ["--help"], ["nonsense"]):
        done = spawn(*arguments, env={**os.environ, "TERM": "xterm-256color"})
        assert "\x1b" not in done.stdout + done.stderr


def test_each_verb_is_named_after_its_module() -> None:
    for verb, module in VERBS.items():
        assert module == f"espalier.cli.{verb}"


def test_devices_as_a_table_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["devices"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["name", "kind", "GHz"] and lines[1].startswith("host ")
    assert all(line == line.rstrip() for line in lines)
    assert run(["devices", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["devices"]
    assert next(device["name"] for device in listed) == "host" and len(listed) == len(lines) - 1
    assert run(["devices", "sapphire", "--json"]) == 0
    device = json.loads(capsys.readouterr().out)
    figures = {figure["name"]: figure for figure in device["figures"]}
    assert device["name"] == "sapphirerapids" and figures["flops_per_cycle"]["value"] == 64
    assert figures["clock_ghz"]["source"] == "data sheet of Xeon Platinum 8480+"
    assert run(["devices", "sapphire"]) == 0
    assert "data sheet of Xeon Platinum 8480+" in capsys.readouterr().out
