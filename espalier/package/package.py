"""A compiled model in memory: saved, loaded, run and timed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from espalier.errors import DataError, UnavailableError
from espalier.package.archive import HINT, METADATA, MODULE, read_archive, write_archive
from espalier.package.metadata import MemberInfo, Metadata, parse_metadata

if TYPE_CHECKING:
    import numpy as np

    from espalier.runtime.executor import Executor
    from espalier.runtime.timing import Times


@dataclass(frozen=True)
class Package:
    """A compiled model. `run` and `benchmark` load it once, on this machine's CPU or a simulator."""

    metadata: Metadata
    module: bytes
    images: Mapping[str, bytes] = field(default_factory=dict)
    """What an accelerator loads: other members by name."""

    @classmethod
    def build(cls, module: bytes, images: Mapping[str, bytes] | None = None, /, **metadata: Any) -> Package:
        """A package of a shared library; `metadata` are the fields of Metadata but format and members."""
        images = images or {}
        members = {
            name: MemberInfo(size=len(content), sha256=hashlib.sha256(content).hexdigest())
            for name, content in {MODULE: module, **images}.items()
        }
        return cls(Metadata(format_version=1, members=members, **metadata), module, images)

    @classmethod
    def load(cls, path: str | Path) -> Package:
        """Reads and checks a package; nothing of it is executed.

        Raises DataError where the file is missing, no package, damaged, or of a newer format.
        """
        path = Path(path)
        members = read_archive(path)
        metadata = parse_metadata(members.pop(METADATA), f"package {path}")
        if metadata.members.keys() != members.keys():
            raise DataError(
                f"package {path}: metadata.json lists {sorted(metadata.members)}, not {sorted(members)}",
                hint=HINT,
            )
        for name, content in members.items():
            listed = metadata.members[name]
            if listed.size != len(content) or listed.sha256 != hashlib.sha256(content).hexdigest():
                raise DataError(
                    f"package {path}: the digest of {name!r} does not match metadata.json", hint=HINT
                )
        return cls(metadata, members.pop(MODULE), members)

    def save(self, path: str | Path) -> None:
        """Writes the package; the same package gives the same bytes.

        Raises UsageError where the file cannot be written.
        """
        write_archive(Path(path), {METADATA: self.metadata.to_bytes(), MODULE: self.module, **self.images})

    def executor(self, *, threads: int | None = None, device: str | None = None) -> Executor:
        """Loads the compiled code; `device` is one that runs packages of this kind, None the usual one.

        Raises UnavailableError where this machine cannot run it, before anything is loaded, UsageError for
        a device of another kind.
        """
        from espalier.targets.host import why_not_here

        target = self.metadata.target
        reason = why_not_here(target.arch, target.features)
        if reason:
            raise UnavailableError(
                f"the package is compiled for {target.name} ({target.mcpu}) and cannot run here: {reason}",
                hint="compile the model again on this machine, or with a --target that fits it",
            )
        from espalier.runtime.registry import runtime

        chosen = runtime(target.kind, device)
        return chosen.open_package(self, device or chosen.DEVICES[0], threads)

    @cached_property
    def _executor(self) -> Executor:
        return self.executor()

    def run(self, inputs: Mapping[str, np.ndarray], *, threads: int | None = None) -> dict[str, np.ndarray]:
        """The outputs by their ONNX names. Without `threads`, on all cores.

        Raises DataError where the inputs do not fit, UnavailableError where this machine cannot run it.
        """
        return self._executor.with_threads(threads).run(inputs)

    def benchmark(
        self,
        inputs: Mapping[str, np.ndarray],
        *,
        repeat: int = 10,
        number: int = 1,
        threads: int | None = None,
    ) -> Times:
        """Times `repeat` means of `number` runs each.

        Raises as `run` does.
        """
        return self._executor.with_threads(threads).benchmark(inputs, repeat=repeat, number=number)

    def to_dict(self) -> dict[str, Any]:
        """The metadata as plain values."""
        return self.metadata.model_dump(mode="json")
