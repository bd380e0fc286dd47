from __future__ import annotations

import subprocess
import sys

import pytest

import espalier.pruning as pruning

pytestmark = pytest.mark.unit


def test_every_name_is_there() -> None:
    for name in pruning._LAZY:
        assert getattr(pruning, name).__name__ == name and name in dir(pruning)
    with pytest.raises(AttributeError, match="has no attribute 'Prunner'"):
        pruning.Prunner  # noqa: B018


def test_importing_needs_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; import espalier.pruning, espalier.pruning.tasks"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_verb_says_how_to_install_torch(tmp_path: object) -> None:
    code = (
        "import sys; sys.modules['torch'] = None; from espalier.cli.main import run; "
        "sys.exit(run(['prune', '--task', 'digits']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 5
    assert "torch, which pruning needs, is not installed" in done.stderr
    assert 'pip install "tvm-espalier[train]"' in done.stderr
