"""Where results, notes and progress go, with and without a terminal."""

from __future__ import annotations

import io
import logging
import sys

import click
import pytest

from espalier.cli.main import run
from espalier.cli.options import Output, common

pytestmark = pytest.mark.unit

ROWS = [["a [bold]name[/bold]", 1, 0.123456789], ["z" * 300, 20, 1e-9]]


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_table_without_a_terminal_is_whole_and_plain(capsys: pytest.CaptureFixture[str]) -> None:
    Output(json=False, quiet=False).table(("name", "count", "value"), ROWS, title="things")
    out, err = capsys.readouterr()
    title, header, first, second = out.splitlines()
    assert (title, header.split()) == ("things", ["name", "count", "value"])
    assert first.startswith("a [bold]name[/bold] ") and first.endswith("  1  0.1235")
    assert second == f"{'z' * 300}     20   1e-09" and err == ""


def test_a_table_on_a_terminal_fits_it(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", "60")
    Output(json=False, quiet=False).table(("name", "count", "value"), ROWS)
    lines = click.unstyle(terminal.getvalue()).splitlines()
    assert len(lines) > 5 and all(len(line) <= 60 for line in lines)
    assert sum(line.count("z") for line in lines) == 300


@pytest.mark.parametrize(
    ("json", "quiet", "text"), [(False, False, "note\n"), (True, False, ""), (False, True, "")]
)
def test_notes(json: bool, quiet: bool, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    Output(json=json, quiet=quiet).note("note")
    assert capsys.readouterr() == ("", text)


def test_progress_is_for_terminals_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Output(json=False, quiet=False).step("working"):
        pass
    assert capsys.readouterr() == ("", "")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    for output in (Output(json=True, quiet=False), Output(json=False, quiet=True)):
        with output.step("working"):
            pass
    assert terminal.getvalue() == ""
    with Output(json=False, quiet=False).step("working"):
        pass
    assert "working" in terminal.getvalue()


@pytest.mark.parametrize(
    ("options", "logged"),
    [
        (["-q"], {"error"}),
        ([], {"error", "warning"}),
        (["-v"], {"error", "warning", "info"}),
        (["-vv"], {"error", "warning", "info", "debug"}),
    ],
)
def test_levels_of_the_log(
    options: list[str], logged: set[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from espalier.cli import devices

    @click.command()
    @common
    def command(output: Output) -> None:
        for level in ("error", "warning", "info", "debug"):
            getattr(logging.getLogger("espalier.somewhere"), level)("a %s", level)
            getattr(logging.getLogger("elsewhere"), level)("not ours")

    monkeypatch.setattr(devices, "command", command)
    assert run(["devices", *options]) == 0
    out, err = capsys.readouterr()
    assert out == "" and {line.split("a ")[1] for line in err.splitlines() if "somewhere" in line} == logged
    assert "INFO elsewhere" not in err and "DEBUG elsewhere" not in err
