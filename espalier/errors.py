"""The failures a user can meet: one class a kind, each with its exit code.

A message is one line and says what is wrong, where, what was expected and what was got; the hint says what
to do. Only the command line turns them into output and an exit status.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EspalierError(Exception):
    """Root of all failures that are the user's to mend."""

    code = 1
    kind = "internal"

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.message = " ".join(message.split())
        self.hint = " ".join(hint.split())

    def to_dict(self) -> dict[str, object]:
        """The object that `--json` prints under "error"."""
        return {"code": self.code, "kind": self.kind, "message": self.message, "hint": self.hint}


class UsageError(EspalierError):
    """A wrong option or value, an unknown target or device, an output that cannot be written."""

    code = 2
    kind = "usage"


class ModelError(EspalierError):
    """A model that is missing, damaged, or outside what is supported."""

    code = 3
    kind = "model"


class DataError(EspalierError):
    """A package, npz, records or data file that is missing or wrong."""

    code = 4
    kind = "data"


class UnavailableError(EspalierError):
    """A known target whose hardware or tool is absent."""

    code = 5
    kind = "unavailable"


class ConstraintError(EspalierError):
    """A constraint (latency, accuracy) that cannot be met."""

    code = 6
    kind = "constraint"


class RecordsError(EspalierError):
    """Records that are sound but hold nothing for this target."""

    code = 7
    kind = "records"


class StoppedError(EspalierError):
    """The user stopped the work; what was done so far is kept."""

    code = 130
    kind = "interrupted"


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """A hint for an unknown name: the nearest known ones, or all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"{what} is one of: {', '.join(names)}"
