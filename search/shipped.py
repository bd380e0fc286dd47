"""What comes with Espalier: records of common cores and what was learned from them (docs/tuning.md)."""

from __future__ import annotations

from functools import cache
from importlib import resources

from espalier.search.record_file import parse_records
from espalier.search.records import Record
from espalier.search.trees import Trees


def shipped_records(core: str) -> list[Record]:
    """The records of a core (LLVM's name); none where it has none."""
    content = _content(f"shipped-{core}.jsonl")
    return [] if content is None else parse_records(content, f"shipped records of {core}")


@cache
def shipped_trees(core: str) -> Trees | None:
    """What was learned from them, None where there are none."""
    content = _content(f"shipped-{core}.json")
    return None if content is None else Trees.from_json(content.decode())


def _content(name: str) -> bytes | None:
    file = resources.files("espalier.search").joinpath(name)
    return file.read_bytes() if file.is_file() else None
