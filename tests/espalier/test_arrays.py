"""npz files: what numpy writes is read, what could harm is refused."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from espalier.arrays import read_npz, write_npz
from espalier.errors import DataError, UsageError

pytestmark = pytest.mark.unit


def npy(header: str, data: bytes = b"", magic: bytes = b"\x93NUMPY\1\0") -> bytes:
    text = header.encode() + b"\n"
    return magic + len(text).to_bytes(2, "little") + text + data


def zipped(path: Path, entries: list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in entries:
            archive.writestr(name, content)


DTYPES = arrays.scalar_dtypes().filter(lambda dtype: dtype.kind in "biuf")


@given(
    arrays.arrays(DTYPES, arrays.array_shapes(min_dims=0, min_side=0, max_side=5)),
    st.booleans(),
    st.booleans(),
)
def test_what_numpy_writes_is_read(array: np.ndarray, packed: bool, by_column: bool) -> None:
    file = io.BytesIO()
    (np.savez_compressed if packed else np.savez)(
        file, x=np.asfortranarray(array) if by_column and array.ndim else array
    )
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.npz")
        path.write_bytes(file.getvalue())
        read = read_npz(path)
        assert list(read) == ["x"] and read["x"].dtype == array.dtype and read["x"].shape == array.shape
        np.testing.assert_array_equal(read["x"], array)
        write_npz(path, read)
        np.testing.assert_array_equal(np.load(path)["x"], array)


def test_any_name_is_written_and_the_bytes_are_the_same(tmp_path: Path) -> None:
    content = {name: np.arange(3) for name in ("file", "a/b", "x.npy", "é", "args")}
    write_npz(tmp_path / "a.npz", content)
    write_npz(tmp_path / "b.npz", content)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert set(np.load(tmp_path / "a.npz").files) == set(content)
    assert set(read_npz(tmp_path / "a.npz")) == set(content)


F4 = "{'descr': '<f4', 'fortran_order': False, 'shape': %s, }"
HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda p: p.write_bytes(b""), "damaged or no npz"),
    "text": (lambda p: p.write_text("hello"), "damaged or no npz"),
    "a bare npy": (lambda p: np.save(p.open("wb"), np.zeros(3)), "damaged or no npz"),
    "pickle": (lambda p: np.savez(p, x=np.array([{}], object)), "holds Python objects (pickle)"),
    "text array": (lambda p: np.savez(p, x=np.array(["a"])), "expected numbers"),
    "complex": (lambda p: np.savez(p, x=np.zeros(2, complex)), "expected numbers"),
    "dates": (lambda p: np.savez(p, x=np.zeros(2, "M8[s]")), "expected numbers"),
    "records": (lambda p: np.savez(p, x=np.zeros(2, [("a", "f4")])), "expected numbers"),
    "no array": (lambda p: zipped(p, [("run.sh", b"x")]), "member 'run.sh' is no array"),
    "twice": (lambda p: _twice(p), "comes twice"),
    "no magic": (lambda p: zipped(p, [("x.npy", b"hello world")]), "'x' is damaged"),
    "version 9": (lambda p: zipped(p, [("x.npy", npy(F4 % "(1,)", magic=b"\x93NUMPY\x09\0"))]), "is damaged"),
    "code in the header": (lambda p: zipped(p, [("x.npy", npy("__import__('os')"))]), "is damaged"),
    "large claim": (
        lambda p: zipped(p, [("x.npy", npy(F4 % "(99999999999, 99999)"))]),
        "more than the file holds",
    ),
    "negative": (
        lambda p: zipped(p, [("x.npy", npy(F4 % "(-1, -4)", bytes(16)))]),
        "more than the file holds",
    ),
    "cut off": (lambda p: zipped(p, [("x.npy", npy(F4 % "(4,)", bytes(8)))]), "'x' is cut off"),
    "cut zip": (lambda p: _cut(p), "damaged or no npz"),
    "wrong sum": (lambda p: _flip(p), "damaged or no npz"),
    "many": (lambda p: zipped(p, [(f"{i}.npy", b"") for i in range(1025)]), "has 1025 arrays"),
}


def _twice(path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        zipped(path, [("x.npy", npy(F4 % "(0,)"))] * 2)


def _cut(path: Path) -> None:
    np.savez(path, x=np.zeros(1000))
    path.write_bytes(path.read_bytes()[:4000])


def _flip(path: Path) -> None:
    np.savez(path, x=np.zeros(1000))
    content = bytearray(path.read_bytes())
    content[4000] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile(case: str, tmp_path: Path) -> None:
    make, part = HOSTILE[case]
    path = tmp_path / "a.npz"
    make(path)
    with pytest.raises(DataError, match=re.escape(part)) as caught:
        read_npz(path)
    assert "\n" not in caught.value.message and caught.value.hint


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w") as file:
        file.write(npy(F4 % f"({(2 << 30) // 4},)"))
        for _ in range(64):
            file.write(bytes(1 << 20))
    with pytest.raises(DataError, match="more than the file holds"):
        read_npz(path)


def test_missing_and_unwritable(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        read_npz(tmp_path / "absent.npz")
    with pytest.raises(UsageError, match="its folder does not exist"):
        write_npz(tmp_path / "absent" / "a.npz", {})
