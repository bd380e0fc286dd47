"""The cache of compiled packages: the right one or none, and never in the way."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from espalier import cache
from espalier.package import Package
from espalier.package.metadata import target_info
from espalier.targets.parse import parse_target

pytestmark = pytest.mark.unit

OPTIONS = {"threads": 1, "input_shapes": {"x": (1, 8)}, "disabled_pass": (), "calibrate": None}


@pytest.fixture
def where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache's folder."""
    monkeypatch.setenv("ESPALIER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """y = x w, with w in the file."""
    return save(tmp_path / "m.onnx", np.ones((8, 4), np.float32))


def save(path: Path, weight: np.ndarray, external: str | None = None) -> Path:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(weight, "w")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    if external is None:
        onnx.save(proto, path)
    else:
        onnx.save(proto, path, save_as_external_data=True, location=external, size_threshold=0)
    return path


def package(module: bytes = b"code") -> Package:
    return Package.build(
        module,
        producer="a test",
        tvm_version="0",
        target=target_info(parse_target("x86-64-v3")),
        inputs=[],
        outputs=[],
        dims={},
        layers=[],
    )


def entry(model: Path, *files: Path, target: str = "x86-64-v3", **changed: object) -> cache.Entry:
    found = cache.entry(model, parse_target(target), {**OPTIONS, **changed}, files)
    assert found is not None
    return found


def test_a_package_is_found_again(where: Path, model: Path) -> None:
    assert entry(model).load() is None
    entry(model).store(package())
    found = entry(model).load()
    assert found is not None and found.module == b"code"
    assert where.stat().st_mode & 0o77 == 0
    # the same model elsewhere, the same options in another order
    other = shutil.copy(model, model.with_name("other.onnx"))
    assert (
        cache.entry(Path(other), parse_target("x86-64-v3"), dict(reversed(OPTIONS.items()))).load()
        is not None
    )


@pytest.mark.parametrize(
    "change",
    [
        {"threads": 2}, {"input_shapes": {"x": (2, 8)}}, {"disabled_pass": ("fuse-linear",)},
        {"calibrate": {"x": np.ones((1, 8), np.float32)}}, {"target": "x86-64-v2"},
    ],
)  # fmt: skip
def test_whatever_decides_is_in_the_key(where: Path, model: Path, change: dict) -> None:
    entry(model).store(package())
    assert entry(model, **change).load() is None


def test_arrays_count_by_their_content(where: Path, model: Path) -> None:
    arrays = [{"x": np.full((1, 8), value, np.float32)} for value in (1, 1, 2)]
    first, same, other = (entry(model, calibrate=samples).package for samples in arrays)
    assert first == same != other


def test_another_model_records_or_source_is_another_package(
    where: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = tmp_path / "records"
    records.write_text("a")
    keys = {entry(model).package, entry(model, records).package}
    records.write_text("b")
    keys.add(entry(model, records).package)
    keys.add(entry(save(model, np.zeros((8, 4), np.float32))).package)
    monkeypatch.setattr(cache, "source_digest", lambda: "another source")
    keys.add(entry(model).package)
    assert len(keys) == 5


def test_the_source_is_all_that_compiles() -> None:
    names = {f"{path.parent.name}/{path.name}" for path in cache._sources()}
    assert {"x86/linear.py", "passes/lower.py", "espalier/compiler.py", "x86/classes.toml"} <= names
    assert len(cache.source_digest()) == 64


@pytest.mark.parametrize("damage", [b"", b"garbage", b"\0" * 20480])
def test_a_damaged_entry_counts_as_none_and_is_replaced(where: Path, model: Path, damage: bytes) -> None:
    entry(model).store(package())
    entry(model).package.write_bytes(damage)
    assert entry(model).load() is None
    entry(model).store(package(b"again"))
    found = entry(model).load()
    assert found is not None and found.module == b"again"


def test_weights_beside_the_model_count(where: Path, tmp_path: Path) -> None:
    first, second = (np.full((8, 4), value, np.float32) for value in (1, 2))
    model = save(tmp_path / "m.onnx", first, "m.bin")
    entry(model).store(package())
    assert entry(model).load() is not None
    weights = (tmp_path / "m.bin").read_bytes()
    (tmp_path / "m.bin").write_bytes(weights.replace(first.tobytes(), second.tobytes()))
    assert entry(model).load() is None
    (tmp_path / "m.bin").unlink()
    assert entry(model).load() is None


def test_a_model_that_changed_meanwhile_is_not_kept(where: Path, model: Path) -> None:
    before = entry(model)
    save(model, np.zeros((8, 4), np.float32))
    os.utime(model, ns=(1, 1))
    before.store(package())
    assert before.load() is None


def test_what_was_used_longest_ago_goes_first(
    where: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "MOST_BYTES", 65_000)
    for threads in range(1, 6):
        entry(model, threads=threads).store(package(bytes(12_000)))
        os.utime(entry(model, threads=threads).package, (threads, threads))
        assert entry(model, threads=1).load() is not None  # which makes it the newest
    left = [threads for threads in range(1, 6) if entry(model, threads=threads).package.exists()]
    assert left == [1, 4, 5]


def test_no_cache_where_there_can_be_none(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = parse_target("x86-64-v3")
    (tmp_path / "file").write_text("")
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    for place in ("", str(tmp_path / "file" / "inside"), str(shared)):
        monkeypatch.setenv("ESPALIER_CACHE", place)
        assert cache.entry(model, target, OPTIONS) is None
    monkeypatch.setenv("ESPALIER_CACHE", str(tmp_path / "cache"))
    for missing in (tmp_path / "none.onnx", tmp_path):
        assert cache.entry(missing, target, OPTIONS) is None


def test_where_the_folder_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("ESPALIER_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache.folder() == tmp_path / ".cache" / "espalier"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.folder() == tmp_path / "xdg" / "espalier"
    monkeypatch.setenv("ESPALIER_CACHE", str(tmp_path / "own"))
    assert cache.folder() == tmp_path / "own"


def test_a_full_disk_is_no_failure(where: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Package, "save", full)
    entry(model).store(package())
    assert entry(model).load() is None
