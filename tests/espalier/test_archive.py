"""Packages that are damaged or meant to harm are refused, each for its reason, and nothing is written."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espalier.errors import DataError, UsageError
from espalier.package import Package
from espalier.package.archive import METADATA, MODULE, read_archive, write_archive

pytestmark = pytest.mark.unit

CODE = b"\x7fELF, or so it says" * 100


def package(**changes: Any) -> Package:
    fields: dict[str, Any] = {
        "producer": "a test",
        "tvm_version": "0",
        "target": {
            "kind": "llvm",
            "name": "host",
            "arch": "x86_64",
            "mcpu": "x86-64-v2",
            "isa": "sse4",
            "features": ["sse4_1"],
            "cores": 2,
        },
        "inputs": [{"name": "x", "shape": ["batch", 8], "dtype": "float32"}],
        "outputs": [{"name": "y", "shape": ["batch", 4], "dtype": "float32"}],
        "dims": {"batch": {"min": 1, "max": 8}},
        "layers": [
            {"name": "fc", "structure": "2:4", "kernel": "k", "candidates": {"k": 0.5}, "how": "predicted"}
        ],
    }
    return Package.build(CODE, **{**fields, **changes})


def members() -> dict[str, bytes]:
    one = package()
    return {METADATA: one.metadata.to_bytes(), MODULE: one.module}


def tar(entries: list[tuple[str, bytes]], path: Path, **info: Any) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in entries:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            for key, value in info.items():
                setattr(entry, key, value)
            archive.addfile(entry, io.BytesIO(content))


def edited(change: Callable[[dict[str, Any]], None]) -> list[tuple[str, bytes]]:
    metadata = json.loads(members()[METADATA])
    change(metadata)
    return [(METADATA, json.dumps(metadata).encode()), (MODULE, CODE)]


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    package().save(tmp_path / "p.tar")
    assert Package.load(tmp_path / "p.tar") == package()
    assert package().to_dict()["layers"][0]["candidates"] == {"k": 0.5}


def test_the_same_package_has_the_same_bytes_and_is_a_plain_tar(tmp_path: Path) -> None:
    package().save(tmp_path / "a.tar")
    package().save(tmp_path / "b.tar")
    content = (tmp_path / "a.tar").read_bytes()
    assert content == (tmp_path / "b.tar").read_bytes()
    with tarfile.open(tmp_path / "a.tar", "r:") as archive:
        assert archive.getnames() == [METADATA, MODULE]
        entries = archive.getmembers()
    assert {(e.mtime, e.uid, e.gid, e.uname, e.gname, e.mode) for e in entries} == {(0, 0, 0, "", "", 0o644)}


def test_metadata_tells_the_digest_of_every_other_member(tmp_path: Path) -> None:
    import hashlib

    package().save(tmp_path / "p.tar")
    metadata = json.loads(read_archive(tmp_path / "p.tar")[METADATA])
    assert metadata["format_version"] == 1
    assert metadata["members"] == {MODULE: {"size": len(CODE), "sha256": hashlib.sha256(CODE).hexdigest()}}


def test_a_package_of_gnu_tar_is_read(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "p.tar", "w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in reversed(members().items()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime, entry.uname = len(content), 1_700_000_000, "somebody"
            archive.addfile(entry, io.BytesIO(content))
    assert Package.load(tmp_path / "p.tar") == package()


M = members()
HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda p: p.write_bytes(b""), "no tar archive"),
    "text": (lambda p: p.write_text("hello " * 1000), "no tar archive"),
    "zeros": (lambda p: p.write_bytes(bytes(4096)), "no tar archive"),
    "no members": (lambda p: tar([], p), "no tar archive"),
    "gzip": (lambda p: tarfile.open(p, "w:gz").close(), "compressed (gzip)"),
    "bzip2": (lambda p: tarfile.open(p, "w:bz2").close(), "compressed (bzip2)"),
    "xz": (lambda p: tarfile.open(p, "w:xz").close(), "compressed (xz)"),
    "zip": (lambda p: p.write_bytes(b"PK\3\4" + bytes(1000)), "compressed (zip)"),
    "absolute": (lambda p: tar([("/etc/passwd", b"x")], p), "unknown member '/etc/passwd'"),
    "parent": (lambda p: tar([("../mod.so", b"x")], p), "unknown member '../mod.so'"),
    "dot": (lambda p: tar([("./mod.so", b"x")], p), "unknown member './mod.so'"),
    "extra": (lambda p: tar([*M.items(), ("run.sh", b"x")], p), "unknown member 'run.sh'"),
    "twice": (lambda p: tar([*M.items(), (MODULE, b"x")], p), "two members 'mod.so'"),
    "no metadata": (lambda p: tar([(MODULE, CODE)], p), "no member 'metadata.json'"),
    "no module": (lambda p: tar([(METADATA, M[METADATA])], p), "no member 'mod.so'"),
    "symlink": (
        lambda p: tar([(MODULE, b"")], p, type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        "'mod.so' is no regular file",
    ),
    "hard link": (
        lambda p: tar([(MODULE, b"")], p, type=tarfile.LNKTYPE, linkname="x"),
        "is no regular file",
    ),
    "device": (lambda p: tar([(MODULE, b"")], p, type=tarfile.CHRTYPE), "is no regular file"),
    "folder": (lambda p: tar([(MODULE, b"")], p, type=tarfile.DIRTYPE), "is no regular file"),
    "pax": (lambda p: tar([(MODULE, b"")], p, type=tarfile.XHDTYPE), "is no regular file"),
    "cut off": (lambda p: _cut(p, 1124 + _padded(M[METADATA])), "is cut off in 'mod.so'"),
    "cut in the padding": (lambda p: _cut(p, 512 + len(M[METADATA]) + 1), "is cut off in 'metadata.json'"),
    "no end": (
        lambda p: _cut(p, 1024 + _padded(M[METADATA]) + _padded(CODE)),
        "no tar archive, or a damaged",
    ),
    "huge claim": (lambda p: _claim(p, MODULE, 8**11 - 1), "expected at most"),
    "huge metadata": (lambda p: tar([(METADATA, b" " * ((4 << 20) + 1))], p), "expected at most 4194304"),
    "tail": (lambda p: _append(p, b"secret"), "data after its end"),
    "flipped code": (
        lambda p: tar([(METADATA, M[METADATA]), (MODULE, CODE[:-1] + b"?")], p),
        "digest of 'mod.so'",
    ),
    "longer code": (lambda p: tar([(METADATA, M[METADATA]), (MODULE, CODE + b"?")], p), "digest of 'mod.so'"),
    "no json": (lambda p: tar([(METADATA, b"{"), (MODULE, CODE)], p), "metadata.json is not JSON"),
    "no utf-8": (lambda p: tar([(METADATA, b"\xff\xfe"), (MODULE, CODE)], p), "metadata.json is not JSON"),
    "deep json": (
        lambda p: tar([(METADATA, b"[" * 100_000), (MODULE, CODE)], p),
        "metadata.json is not JSON",
    ),
    "a list": (lambda p: tar([(METADATA, b"[]"), (MODULE, CODE)], p), "format version None"),
}
FIELDS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "newer": (lambda m: m.update(format_version=2), "format version 2, expected 1"),
    "version as text": (lambda m: m.update(format_version="1"), "format version '1', expected 1"),
    "version true": (lambda m: m.update(format_version=True), "format version True, expected 1"),
    "no version": (lambda m: m.pop("format_version"), "format version None"),
    "no target": (lambda m: m.pop("target"), "target: Field required"),
    "unknown field": (lambda m: m.update(script="rm"), "script: Extra inputs are not permitted"),
    "unlisted": (lambda m: m.update(members={}), "metadata.json lists []"),
    "listed twice": (lambda m: m["members"].update({"x": m["members"][MODULE]}), "lists ['mod.so', 'x']"),
    "digest of another kind": (lambda m: m["members"][MODULE].update(sha256="00"), "members.mod.so.sha256"),
    "size below zero": (lambda m: m["members"][MODULE].update(size=-1), "members.mod.so.size"),
    "no bounds": (lambda m: m.update(dims={}), "dimension 'batch' of input 'x' has no bounds"),
    "bounds upside down": (
        lambda m: m["dims"]["batch"].update(min=9),
        "bounds of dimension 'batch' are 9 to 8",
    ),
    "unknown dtype": (lambda m: m["inputs"][0].update(dtype="object"), "inputs.0.dtype"),
    "negative dimension": (lambda m: m["inputs"][0].update(shape=[-1]), "inputs.0.shape"),
    "fraction": (lambda m: m["inputs"][0].update(shape=[1.5]), "inputs.0.shape"),
    "rank 100": (lambda m: m["inputs"][0].update(shape=[1] * 100), "inputs.0.shape"),
    "one name twice": (lambda m: m["inputs"].append(m["inputs"][0]), "two tensors have one name"),
    "infinite time": (lambda m: m["layers"][0].update(candidates={"k": 1e999}), "layers.0.candidates"),
    "rows of no dimension": (
        lambda m: m["layers"][0].update(rows=["batch", 3, "__class__"]),
        "has rows '__class__', no dimension of an input",
    ),
    "weights below zero": (lambda m: m["layers"][0].update(nonzeros=-1), "layers.0.nonzeros"),
    "unknown how": (lambda m: m["layers"][0].update(how="guessed"), "layers.0.how"),
}


def _padded(content: bytes) -> int:
    return -(-len(content) // 512) * 512


def _cut(path: Path, size: int) -> None:
    tar(list(M.items()), path)
    path.write_bytes(path.read_bytes()[:size])


def _append(path: Path, tail: bytes) -> None:
    tar(list(M.items()), path)
    path.write_bytes(path.read_bytes() + tail)


def _claim(path: Path, name: str, size: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = size
    path.write_bytes(entry.tobuf(tarfile.USTAR_FORMAT) + bytes(1024))


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_archives(case: str, tmp_path: Path) -> None:
    make, part = HOSTILE[case]
    path = tmp_path / "p.tar"
    make(path)
    _refused(path, part)


@pytest.mark.parametrize("case", FIELDS)
def test_hostile_metadata(case: str, tmp_path: Path) -> None:
    change, part = FIELDS[case]
    path = tmp_path / "p.tar"
    tar(edited(lambda metadata: [change(metadata), None][1]), path)
    _refused(path, part)


def _refused(path: Path, part: str) -> None:
    with pytest.raises(DataError, match=re.escape(part)) as caught:
        Package.load(path)
    assert caught.value.hint and "\n" not in caught.value.message
    assert len(caught.value.message) < 500
    assert list(path.parent.iterdir()) == [path]


def test_paths_that_are_no_file(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe")
    for path, part in [
        (tmp_path / "absent.tar", "No such file"),
        (tmp_path, "is a folder"),
        (tmp_path / "pipe", "is no regular file"),
        (Path("/dev/zero"), "is no regular file"),
        (Path("a\0b"), "null"),
    ]:
        with pytest.raises(DataError, match=part):
            Package.load(path)


@given(st.integers(0, 10_239), st.integers(0, 255))
def test_a_changed_byte_is_seen_or_changes_nothing(position: int, value: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "p.tar")
        package().save(path)
        content = bytearray(path.read_bytes())
        content[position % len(content)] = value
        path.write_bytes(content)
        try:
            loaded = Package.load(path)
        except DataError:
            return
        assert loaded.module == CODE


@pytest.mark.parametrize("name", ["absent/p.tar", ".", "", "/proc/p.tar", "x" * 300])
def test_a_package_that_cannot_be_written_leaves_nothing(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        package().save(tmp_path / name if name != "" else Path(""))
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "p.tar"
    package().save(path)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tarfile.TarFile, "addfile", full)
    with pytest.raises(UsageError, match="No space left on device"):
        write_archive(path, members())
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
