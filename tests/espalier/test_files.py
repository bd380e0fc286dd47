"""Outputs appear whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from espalier.errors import DataError, UsageError
from espalier.files import atomic, check_output, check_overwrite, require_file

pytestmark = pytest.mark.unit


def test_the_file_takes_its_name_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with atomic(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole" and list(tmp_path.iterdir()) == [path]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize("failure", [ValueError("wrong"), KeyboardInterrupt(), OSError(2, "gone")])
def test_a_failure_leaves_what_was_there(tmp_path: Path, failure: BaseException) -> None:
    path = tmp_path / "out"
    path.write_text("old")
    with pytest.raises((type(failure), UsageError)), atomic(path) as temporary:
        temporary.write_text("half")
        raise failure
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_an_unrelated_system_error_is_no_usage_error(tmp_path: Path) -> None:
    with pytest.raises(ChildProcessError), atomic(tmp_path / "out"):
        raise ChildProcessError(10, "No child processes")
    assert list(tmp_path.iterdir()) == []


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    with atomic(tmp_path / "link") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_text() == "new"


def test_outputs_that_cannot_be(tmp_path: Path) -> None:
    for path, part in [
        (tmp_path, "is a folder"),
        (tmp_path / "absent" / "out", "its folder does not exist"),
        (Path("/dev/null"), "is no regular file"),
        (Path("a\0b"), "null"),
        (Path("x" * 300), "too long"),
    ]:
        with pytest.raises(UsageError, match=part):
            check_output(path)


def test_inputs_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "five").write_bytes(b"12345")
    assert require_file(tmp_path / "five", "data", DataError) == 5
    for path, part in [
        (tmp_path, "folder"),
        (tmp_path / "absent", "No such file"),
        (Path("/dev/null"), "regular"),
    ]:
        with pytest.raises(DataError, match=f"data {path}.*{part}"):
            require_file(path, "data", DataError)


def test_permissions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # root may do everything, so the answers of the kernel are made up
    (tmp_path / "f").touch()
    denied: set[Path] = set()
    monkeypatch.setattr(os, "access", lambda path, _mode: Path(path) not in denied)
    denied = {tmp_path / "f"}
    with pytest.raises(DataError, match="cannot be read: permission denied"):
        require_file(tmp_path / "f", "data", DataError)
    with pytest.raises(UsageError, match="f cannot be written"):
        check_output(tmp_path / "f")
    denied = {tmp_path}
    with pytest.raises(UsageError, match="its folder cannot be written"):
        check_output(tmp_path / "new")


def test_an_input_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    (tmp_path / "link").symlink_to("f")
    check_overwrite(tmp_path / "new", tmp_path / "f", None)
    for path in ("f", "link"):
        with pytest.raises(UsageError, match="would overwrite the input"):
            check_overwrite(tmp_path / path, None, tmp_path / "f")
