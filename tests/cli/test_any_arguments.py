"""Whatever is typed, the command ends in one of its exit codes and never in a bug."""

from __future__ import annotations

import os
import tempfile

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from espalier.cli.main import run

pytestmark = pytest.mark.unit

WORDS = [
    "--json",
    "-q",
    "-v",
    "-i",
    "-o",
    "--",
    "-",
    "--threads",
    "--repeat",
    "--seed",
    "--target",
    "--input-shapes",
]
VALUES = ["0", "1", "x:[1]", "llvm", "host", "{}", "llvm -mcpu=znver1", "absent", ".", "/", "", "\0", "é"]
TEXT = st.binary(max_size=6).map(os.fsdecode)
ARGUMENTS = st.lists(st.one_of(st.sampled_from(WORDS), st.sampled_from(VALUES), TEXT), max_size=6)


@given(st.sampled_from(["inspect", "run", "devices", "compile", "-", ""]), ARGUMENTS)
@example("run", ["absent", "--target", "host"])
@example("run", ["\udcff"])
@example("inspect", ["a\0b"])
@example("compile", ["x", "--target", "{" * 5000])
@example("run", ["-o", "a" * 5000, "x"])
def test_no_argument_is_a_bug(verb: str, arguments: list[str]) -> None:
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            assert run([verb, *arguments]) in (0, 2, 3, 4, 5)
            assert os.listdir(folder) == []
        finally:
            os.chdir(before)
