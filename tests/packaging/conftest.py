"""A wheel and an sdist of this tree, and an empty virtual environment with only the wheel installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LEFT_OUT = shutil.ignore_patterns(
    ".*", "__pycache__", "*.egg-info", "build", "dist", "out", "*.pyc", "*.part", "node_modules"
)


@dataclass(frozen=True)
class Built:
    """Where the distributions lie and the tree that they were built from."""

    tree: Path
    wheel: Path
    sdist: Path


@dataclass(frozen=True)
class Installed:
    """A virtual environment that knows nothing of this tree."""

    bin: Path
    home: Path

    def run(self, *command: str, timeout: int = 300) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment, away from the tree."""
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        environment = {**inherited, "PATH": f"{self.bin}:{os.environ['PATH']}"}
        return subprocess.run(
            [self.bin / command[0], *command[1:]],
            cwd=self.home,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def python(self, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a few lines of Python."""
        return self.run("python", "-c", code, *arguments)


def _call(command: Sequence[str | Path], **options) -> None:
    """Run a command that must succeed."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL, check=False, **options
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The sdist, and the wheel made from the sdist: what the sdist lacks is not in the wheel."""
    folder = tmp_path_factory.mktemp("dist")
    tree = folder / "tree"
    shutil.copytree(ROOT, tree, ignore=LEFT_OUT, symlinks=True)
    _call([sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, tree])
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return Built(tree, wheel, sdist)


@pytest.fixture(scope="session")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel in an environment that borrows this one's dependencies, but not its editable install."""
    home = tmp_path_factory.mktemp("elsewhere")
    environment = home / "venv"
    _call([sys.executable, "-m", "venv", "--without-pip", environment])
    python = environment / "bin" / "python"
    _call(
        [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", built.wheel]
    )
    (site,) = environment.glob("lib/python*/site-packages")
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return Installed(environment / "bin", home)
