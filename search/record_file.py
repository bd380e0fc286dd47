"""Files of records, one JSON line each.

The first line is HEADER; lines of several files may be put together. A line:

    {"core":"znver1","ghz":2.0,"threads":1,"n":384,"k":384,"structure":"HP(B=32,kc=76,v=4,n=2,g=4)",
     "epilogue":"bias+gelu","tokens":128,"kernel":"f32-group-r4m1h32c38","version":1,"ms":0.0912}

and what else LinearWork has where it is not the usual. Of two lines on one kernel
the later one holds. Files are read as hostile: every line is checked, and nothing in it is executed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import pydantic

from espalier.errors import DataError
from espalier.files import atomic, require_file
from espalier.schedules import LinearWork
from espalier.search.records import EXTRAS, Place, Record, parse_epilogue, parse_structure
from espalier.sparsity import Block, Structure, Unstructured

HEADER = '{"espalier-records":1}'
HINT = "give a file that `espalier tune` wrote"
MOST_BYTES = 64 << 20
MOST_LINE = 2048
MOST_CELLS = 1 << 27
MOST_PATTERNS = 1 << 22

Word = Annotated[str, pydantic.Field(max_length=100, pattern=r"^[A-Za-z0-9_.+-]*$")]
Count = Annotated[int, pydantic.Field(ge=1, le=1 << 20, strict=True)]


FIELD_TYPES = get_type_hints(LinearWork, localns={"Structure": Structure})


class _Line(pydantic.BaseModel):
    """A line as it is stored."""

    model_config = pydantic.ConfigDict(extra="allow", frozen=True)

    core: Word
    ghz: Annotated[float, pydantic.Field(gt=0, lt=100, allow_inf_nan=False)]
    threads: Annotated[int, pydantic.Field(ge=1, le=1024, strict=True)]
    n: Count
    k: Count
    structure: Annotated[str, pydantic.Field(max_length=100)]
    epilogue: Word
    tokens: Count
    kernel: Word
    version: Annotated[int, pydantic.Field(ge=0, le=1 << 20, strict=True)]
    ms: Annotated[float, pydantic.Field(gt=0, lt=1e9, allow_inf_nan=False)]

    def record(self) -> Record:
        """The record; ValueError where its parts do not fit each other."""
        structure = parse_structure(self.structure)
        p = getattr(structure, "p", MOST_CELLS)
        if self.n * self.k > MOST_CELLS or self.n * self.k > MOST_PATTERNS * p * p:
            raise ValueError(f"a matrix {self.n} x {self.k} of {self.structure} is larger than any")
        kept = structure.kept if isinstance(structure, Unstructured | Block) else 0
        if kept > self.n * self.k or structure.kept_count((self.n, self.k)) > self.n * self.k:
            raise ValueError(f"{self.structure} does not fit a matrix {self.n} x {self.k}")
        if getattr(structure, "kc", 0) > max(self.n, self.k):
            raise ValueError(f"{self.structure} keeps more than a matrix {self.n} x {self.k} has")
        work = LinearWork(self.n, self.k, structure, parse_epilogue(self.epilogue), **self._rest())
        place = Place(self.core, self.ghz, self.threads)
        return Record(place, work, self.tokens, self.kernel, self.version, self.ms)

    def _rest(self) -> dict[str, Any]:
        """The other fields of LinearWork."""
        given = self.model_extra or {}
        for name, value in given.items():
            if name not in EXTRAS:
                raise ValueError(f"unknown field {name[:30]!r}")
            allowed = get_args(FIELD_TYPES[name])
            fits = value in allowed if allowed else type(value) is type(EXTRAS[name])
            if not fits or len(str(value)) > 20:
                raise ValueError(f"{name}: unknown value {str(value)[:30]!r}")
        return given


def parse_records(content: bytes, where: str) -> list[Record]:
    """The records of a file, the later one where two are of the same thing.

    Raises DataError where it is no file of records, saying which line is wrong.
    """
    lines = content.split(b"\n")
    if lines[0].strip() != HEADER.encode():
        raise DataError(f"{where} is no file of records: its first line is not {HEADER}", hint=HINT)
    found: dict[tuple[object, ...], Record] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.strip() == HEADER.encode():
            continue
        if len(line) > MOST_LINE:
            raise DataError(f"{where}, line {number}: {len(line)} bytes, expected a record", hint=HINT)
        try:
            record = _Line.model_validate_json(line).record()
        except (ValueError, TypeError) as error:
            raise DataError(f"{where}, line {number}: {_reason(error)}", hint=HINT) from None
        found.pop(record.key, None)
        found[record.key] = record
    return list(found.values())


def _reason(error: Exception) -> str:
    if not isinstance(error, pydantic.ValidationError):
        return str(error)[:200]
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    return f"{field + ': ' if field else ''}{first['msg']}"[:200]


def read_records(path: Path) -> list[Record]:
    """The records of a file.

    Raises DataError where it is missing or no file of records.
    """
    size = require_file(path, "records file", DataError)
    if size > MOST_BYTES:
        raise DataError(f"records file {path} has {size} bytes, expected at most {MOST_BYTES}", hint=HINT)
    return parse_records(path.read_bytes(), f"records file {path}")


def whole_lines(content: bytes) -> bytes:
    """What was written before an interruption: without the last line where that is cut off."""
    return content if content.endswith(b"\n") else content[: content.rfind(b"\n") + 1]


class RecordsFile:
    """A file to which records are added as they are measured; every line is on the disk before the next."""

    def __init__(self, path: Path) -> None:
        """Goes on with what is there; a line that an interruption cut off is dropped.

        Raises DataError where the file is there and holds something else.
        """
        self.path = path
        content = (
            path.read_bytes() if path.exists() and require_file(path, "records file", DataError) else b""
        )
        content = whole_lines(content) if content.startswith(HEADER.encode()) else content
        self.records = parse_records(content, f"records file {path}") if content else []
        with atomic(path) as temporary:
            temporary.write_bytes(content or f"{HEADER}\n".encode())
        self._file = path.open("ab")

    def add(self, records: Iterable[Record]) -> None:
        """Append and flush to the disk."""
        for record in records:
            self._file.write(record.line().encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def compact(records: Sequence[Record]) -> str:
    """A file of records."""
    return "\n".join([HEADER, *(record.line() for record in records)]) + "\n"
