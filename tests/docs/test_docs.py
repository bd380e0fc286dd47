"""Documents say what is so: links lead somewhere, options exist, commands and code run."""

from __future__ import annotations

import re
import shlex
import shutil
from importlib import import_module
from pathlib import Path

import click
import pytest

from espalier.cli.main import VERBS, run
from espalier.errors import EspalierError

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def ids(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def commands(text: str) -> list[list[str]]:
    """Every `espalier VERB ...` in a text, split into words; prose around inline code does not count."""
    fenced = re.findall(r"^(?:\$ )?(espalier .*)$", text, re.MULTILINE)
    inline = re.findall(r"`(espalier [^`]+)`", text)
    return [shlex.split(line, comments=True) for line in (*fenced, *inline)]


@pytest.mark.unit
@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_links_lead_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


@pytest.mark.unit
@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_verbs_and_options_exist(page: Path):
    for words in commands(page.read_text()):
        verb = words[1]
        if verb in ("VERB", "--help", "--version"):
            continue
        assert verb in VERBS, words
        command: click.Command = import_module(VERBS[verb]).command
        known = {name for parameter in command.params for name in parameter.opts} | {"--help", "-h"}
        used = {word for word in words[2:] if re.fullmatch(r"--?[a-z][a-z-]*", word)}
        assert used <= known, words


@pytest.mark.unit
def test_make_goals_exist():
    goals = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        used = set(re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(), re.MULTILINE))
        assert used <= goals, page


@pytest.mark.unit
def test_every_exit_code_is_documented():
    def classes(root: type[EspalierError]) -> set[int]:
        return {root.code}.union(*(classes(one) for one in root.__subclasses__()))

    table = {
        int(code) for code in re.findall(r"^\| (\d+) \|", (ROOT / "docs/usage.md").read_text(), re.MULTILINE)
    }
    assert table == classes(EspalierError) | {0}


@pytest.mark.compile
def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    for model in (ROOT / "espalier" / "demo").glob("digits-*.onnx"):
        shutil.copy(model, tmp_path)
    monkeypatch.chdir(tmp_path)
    page = ROOT / "docs" / "usage.md"
    for line in "".join(blocks(page, "sh")).splitlines():
        command, _, written = line.partition(" > ")
        capfd.readouterr()
        code = run(shlex.split(command)[1:])
        printed = capfd.readouterr()
        assert code == 0, f"{line}\n{printed.err}"
        if written:
            Path(written).write_text(printed.out)
        else:
            assert printed.out, line
    assert {"digits.tar", "old.tir", "out.npz", "report.html"} <= {path.name for path in tmp_path.iterdir()}
    for code in blocks(page, "python"):
        exec(compile(code, str(page), "exec"), {})
