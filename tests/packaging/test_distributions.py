"""What users install is what the tree holds, and it works where the tree is not."""

from __future__ import annotations

import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

pytestmark = [pytest.mark.compile, pytest.mark.xdist_group("packaging")]

WALK = """
import importlib, pkgutil, sys
import espalier
assert "site-packages" in espalier.__file__, espalier.__file__
for module in pkgutil.walk_packages(espalier.__path__, "espalier."):
    if module.name != "espalier.__main__":
        importlib.import_module(module.name)
        print(module.name)
"""

RUN_WITHOUT_A_COMPILER = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tvm", "onnx", "onnxruntime", "torch", "click", "matplotlib"):
            raise ImportError(f"a device has no {name}")
sys.meta_path.insert(0, Refuse())
from espalier.package import Package
from espalier.demo import data
images, labels = data.test_set()
outputs = Package.load(sys.argv[1]).run({data.INPUT: images})
assert (outputs[data.OUTPUT].argmax(1) == labels).mean() > 0.9
imported = [name for name in sys.modules if name.startswith("espalier.")]
rooms = {name.split(".")[1] for name in imported}
assert not rooms & {"passes", "schedules", "codegen", "compiler", "pruning"}, rooms
"""


def shipped(tree: Path) -> set[str]:
    """Every file that belongs into the wheel, under the path it has there."""
    settings = tomllib.loads((tree / "pyproject.toml").read_text())["tool"]["setuptools"]
    rooms = {name: folder for name, folder in settings["package-dir"].items() if "/" not in folder}
    return {
        f"{name.replace('.', '/')}/{path.relative_to(tree / folder).as_posix()}"
        for name, folder in rooms.items()
        for path in (tree / folder).rglob("*")
        if path.is_file() and path.suffix != ".md"
    }


def test_the_wheel_holds_every_file_of_every_room(built):
    files = set(zipfile.ZipFile(built.wheel).namelist())
    own = {name for name in files if ".dist-info/" not in name}
    assert own == shipped(built.tree)
    (licence,) = (name for name in files if name.endswith("LICENSE"))
    assert "Apache License" in zipfile.ZipFile(built.wheel).read(licence).decode()


def test_the_sdist_holds_the_tests_and_the_documents(built):
    with tarfile.open(built.sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    wanted = ["Makefile", "README.md", "CHANGELOG.md", "LICENSE", "tests/conftest.py", "pyproject.toml"]
    assert names.issuperset(wanted)
    scripts = {
        path.relative_to(built.tree).as_posix()
        for folder in ("tests", "benchmarks", "docs")
        for path in (built.tree / folder).rglob("*")
        if path.is_file()
    }
    assert scripts <= names


def test_every_module_imports_away_from_the_tree(installed):
    done = installed.python(WALK)
    assert done.returncode == 0, done.stderr
    assert {"espalier.cli.main", "espalier.sparsity", "espalier.report.render"} <= set(done.stdout.split())


@pytest.fixture(scope="module")
def demo(installed) -> Path:
    """The folder that the installed demo leaves."""
    folder = installed.home / "demo"
    done = installed.run("espalier", "demo", "-o", str(folder))
    assert done.returncode == 0, done.stderr
    return folder


def test_the_demo_runs_away_from_the_tree(demo):
    assert "<svg" in (demo / "report.html").read_text()


def test_a_package_runs_where_there_is_no_compiler(installed, demo):
    done = installed.python(RUN_WITHOUT_A_COMPILER, str(demo / "model.tar"))
    assert done.returncode == 0, done.stderr


def test_the_command_says_its_version(installed, built):
    done = installed.run("espalier", "--version")
    assert done.returncode == 0
    assert done.stdout.strip().split()[-1] in built.wheel.name
