"""Files in and out: inputs are checked before they are opened, outputs appear whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from espalier.errors import EspalierError, UsageError


def require_file(path: Path, what: str, error: type[EspalierError]) -> int:
    """The size in bytes of a regular, readable file; raises `error` where `path` is none."""
    hint = f"give the path of a {what} that exists and can be read"
    try:
        status = path.stat()
    except (OSError, ValueError) as reason:
        raise error(f"{what} {path}: {_why(reason)}", hint=hint) from None
    if stat.S_ISDIR(status.st_mode):
        raise error(f"{what} {path} is a folder", hint=hint)
    if not stat.S_ISREG(status.st_mode):
        raise error(f"{what} {path} is no regular file", hint=hint)
    if not os.access(path, os.R_OK):
        raise error(f"{what} {path} cannot be read: permission denied", hint=hint)
    return status.st_size


def check_output(path: Path) -> None:
    """Raises UsageError where a file cannot be written to `path`: before the work, not after it."""
    hint = "give a file name in a folder that exists and can be written"
    try:
        if path.is_dir():
            raise UsageError(f"output {path} is a folder", hint=hint)
        if path.exists() and not path.is_file():
            raise UsageError(f"output {path} is no regular file", hint=hint)
        if not path.name or not path.resolve().parent.is_dir():
            raise UsageError(f"output {path}: its folder does not exist", hint=hint)
        if not os.access(path.resolve().parent, os.W_OK):
            raise UsageError(f"output {path}: its folder cannot be written", hint=hint)
        if path.exists() and not os.access(path, os.W_OK):
            raise UsageError(f"output {path} cannot be written", hint=hint)
    except (OSError, ValueError) as reason:
        raise UsageError(f"output {path}: {_why(reason)}", hint=hint) from None


def check_overwrite(output: Path, *inputs: Path | None) -> None:
    """Raises UsageError where the output is one of the inputs."""
    for path in inputs:
        if path is not None and path.exists() and output.exists() and output.samefile(path):
            raise UsageError(
                f"output {output} would overwrite the input {path}", hint="give another name with -o"
            )


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that takes its name when the block ends well, and is removed otherwise.

    Raises UsageError where it cannot be written.
    """
    check_output(path)
    final = path.resolve()
    temporary: Path | None = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{final.name[:64]}.", suffix=".part", dir=final.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(final)
        temporary = None
    except OSError as reason:
        if reason.errno not in WRITE_ERRORS:
            raise
        raise UsageError(
            f"output {path} cannot be written: {_why(reason)}",
            hint="free some space, or write it somewhere else",
        ) from None
    finally:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink()


WRITE_ERRORS = frozenset(
    getattr(errno, name)
    for name in [
        "EACCES",
        "EPERM",
        "EROFS",
        "ENOSPC",
        "EDQUOT",
        "EFBIG",
        "EIO",
        "ENAMETOOLONG",
        "ENOENT",
        "EISDIR",
        "EINVAL",
    ]
)


def _why(reason: Exception) -> str:
    return getattr(reason, "strerror", None) or str(reason)
