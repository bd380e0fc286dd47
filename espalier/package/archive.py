"""The tar around a package: the same members give the same bytes, and a hostile one is refused unread.

Reading trusts nothing: only regular files with known names, each once, within a bound, in a plain tar of
which every byte is accounted for.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

from espalier.errors import DataError
from espalier.files import atomic, require_file

METADATA = "metadata.json"
MODULE = "mod.so"

LIMITS = {METADATA: 4 << 20, MODULE: 1 << 30, "program.bin": 64 << 20, "params.bin": 1 << 30}
"""The members a package may have, and the most bytes of each; the last two are an accelerator's."""

REQUIRED = (METADATA, MODULE)

COMPRESSIONS = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK": "zip",
}
HINT = "give a package that `espalier compile` wrote"


def write_archive(path: Path, members: Mapping[str, bytes]) -> None:
    """Writes all members in the order of their names.

    Raises UsageError where the file cannot be written.
    """
    with atomic(path) as temporary, tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name in sorted(members):
            info = tarfile.TarInfo(name)
            info.size = len(members[name])
            tar.addfile(info, io.BytesIO(members[name]))


def read_archive(path: Path) -> dict[str, bytes]:
    """All members.

    Raises DataError where the file is missing or no package.
    """
    size = require_file(path, "package", DataError)
    if size > sum(LIMITS.values()) + (1 << 20):
        raise DataError(f"package {path} has {size} bytes, more than any package", hint=HINT)
    members: dict[str, bytes] = {}
    with path.open("rb") as file:
        _refuse_compressed(file.read(8), path)
        file.seek(0)
        while True:
            header = file.read(tarfile.BLOCKSIZE)
            if header == bytes(tarfile.BLOCKSIZE) and members:
                break
            name, length = _check_header(header, path)
            if name in members:
                raise DataError(f"package {path} has two members {name!r}", hint=HINT)
            content = file.read(length)
            padding = file.read(-length % tarfile.BLOCKSIZE)
            if len(content) < length or len(padding) < -length % tarfile.BLOCKSIZE:
                raise DataError(f"package {path} is cut off in {name!r}", hint=HINT)
            members[name] = content
        while rest := file.read(1 << 20):
            if rest.strip(b"\0"):
                raise DataError(f"package {path} has data after its end", hint=HINT)
    for name in REQUIRED:
        if name not in members:
            raise DataError(f"package {path} has no member {name!r}", hint=HINT)
    return members


def _refuse_compressed(start: bytes, path: Path) -> None:
    for magic, name in COMPRESSIONS.items():
        if start.startswith(magic):
            raise DataError(f"package {path} is compressed ({name}), expected a plain tar", hint=HINT)


def _check_header(header: bytes, path: Path) -> tuple[str, int]:
    try:
        info = tarfile.TarInfo.frombuf(header, "ascii", "strict")
    except (tarfile.HeaderError, ValueError) as error:
        raise DataError(f"package {path} is no tar archive, or a damaged one: {error}", hint=HINT) from None
    if info.name not in LIMITS:
        known = ", ".join(LIMITS)
        raise DataError(
            f"package {path} has an unknown member {info.name[:100]!r}, expected {known}", hint=HINT
        )
    if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
        raise DataError(f"package {path}: member {info.name!r} is no regular file", hint=HINT)
    if not 0 <= info.size <= LIMITS[info.name]:
        raise DataError(
            f"package {path}: {info.name!r} has {info.size} bytes, expected at most {LIMITS[info.name]}",
            hint=HINT,
        )
    return info.name, info.size
