"""Compiled packages on disk, found again by everything that went into them.

The folder is $ESPALIER_CACHE (no cache where that is empty), else `espalier` in $XDG_CACHE_HOME or ~/.cache.
A key is a digest of the model, the target, the options, the versions of what compiles, and Espalier's own
source. An entry that is damaged counts as none; the entries used longest ago are removed beyond MOST_BYTES.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from espalier.errors import EspalierError
from espalier.files import atomic

if TYPE_CHECKING:
    from espalier.package import Package

LOG = logging.getLogger(__name__)

MOST_BYTES = 2 << 30
ROOMS = ("espalier", *(f"espalier.{room}" for room in (
    "sparsity", "passes", "schedules", "codegen", "targets", "search", "runtime",
)))  # fmt: skip
SOURCES = frozenset({".py", ".toml", ".json", ".jsonl"})
VERSIONS = ("tvm-espalier", "apache-tvm", "apache-tvm-ffi", "numpy", "onnx")


def folder() -> Path | None:
    """Where packages are kept, made if it is not there; None where there is no such place.

    A folder that others may write to is not used: what lies there is code.
    """
    named = os.environ.get("ESPALIER_CACHE")
    if named == "":
        return None
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    path = Path(named) if named else Path(base).expanduser() / "espalier"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = path.stat()
    except (OSError, RuntimeError) as error:
        LOG.info("no cache: %s", error)
        return None
    if info.st_uid != os.getuid() or info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        LOG.warning("no cache: others may write to %s", path)
        return None
    return path


@dataclass(frozen=True)
class Entry:
    """The place of one package. `external` lists the files beside the model that hold weights of it."""

    package: Path
    external: Path
    model: Path
    state: tuple[int, int]
    """Size and time of the model when its digest was taken."""

    def load(self) -> Package | None:
        """The package, None where there is none or it is damaged."""
        from espalier.package import Package

        try:
            if self.external.exists():
                listed = json.loads(self.external.read_text(encoding="utf-8"))
                if any(_digest(self.model.parent / name) != digest for name, digest in listed.items()):
                    return None
            if not self.package.exists():
                return None
            package = Package.load(self.package)
            os.utime(self.package)
        except (EspalierError, OSError, ValueError, AttributeError, TypeError) as error:
            LOG.info("cached package %s is not used: %s", self.package.name, error)
            return None
        return package

    def store(self, package: Package) -> None:
        """Keeps a package; where that fails nothing is lost but time."""
        try:
            if _state(self.model) != self.state:
                return
            names = _external_names(self.model)
            if names:
                listed = {name: _digest(self.model.parent / name) for name in names}
                with atomic(self.external) as temporary:
                    temporary.write_text(json.dumps(listed), encoding="utf-8")
            package.save(self.package)
            _bound(self.package.parent)
        except (EspalierError, OSError) as error:
            LOG.info("the package is not cached: %s", error)


def entry(
    model: Path, target: object, options: Mapping[str, Any], files: Sequence[Path] = ()
) -> Entry | None:
    """Where the package of a model for a target under some options is or goes; None without a cache.

    files: what else is read.
    """
    where = folder()
    if where is None:
        return None
    try:
        if not all(path.is_file() for path in (model, *files)):
            return None
        state, content = _state(model), "".join(_digest(path) for path in (model, *files))
    except (OSError, ValueError):
        return None  # reading them will say what is wrong
    versions = {name: metadata.version(name) for name in VERSIONS}
    parts = [content, repr(target), _canonical(options), _canonical(versions), source_digest()]
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    return Entry(where / f"{key}.tar", where / f"{key}.external.json", model, state)


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=_plain)


def _plain(value: Any) -> Any:
    """What JSON does not know: arrays by digest, sequences and mappings as such."""
    if hasattr(value, "tobytes"):
        return [str(value.dtype), list(value.shape), hashlib.sha256(value.tobytes()).hexdigest()]
    return dict(value) if isinstance(value, Mapping) else list(value)


def _state(path: Path) -> tuple[int, int]:
    info = path.stat()
    return info.st_size, info.st_mtime_ns


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _external_names(model: Path) -> list[str]:
    """Files beside the model that it keeps weights in. The model has been read and checked before."""
    import onnx

    from espalier.passes.frontend.tensors import tensors

    external = onnx.TensorProto.EXTERNAL
    found = {
        item.value
        for tensor in tensors(onnx.load(model, load_external_data=False))
        if tensor.data_location == external
        for item in tensor.external_data
        if item.key == "location"
    }
    return sorted(found)


@cache
def source_digest() -> str:
    """Of everything in Espalier that could change what is compiled."""
    total = hashlib.sha256()
    for path in sorted(set(_sources())):
        total.update(f"{path.parent.name}/{path.name}\n".encode())
        total.update(path.read_bytes())
    return total.hexdigest()


def _sources() -> Iterator[Path]:
    for room in ROOMS:
        spec = util.find_spec(room)
        for base in (spec.submodule_search_locations or ()) if spec else ():
            yield from (path for path in Path(base).rglob("*") if path.suffix in SOURCES)


def _bound(where: Path) -> None:
    """Removes what was used longest ago, as long as there is too much."""
    packages = sorted(where.glob("*.tar"), key=lambda path: path.stat().st_mtime, reverse=True)
    total = 0
    for path in packages:
        total += path.stat().st_size
        if total > MOST_BYTES:
            with suppress(OSError):
                path.unlink()
                path.with_suffix(".external.json").unlink(missing_ok=True)
