"""Shapes as users write them: "x:[1,128] mask:[1,128]"."""

from __future__ import annotations

import re

from espalier.errors import UsageError

MOST_RANK = 8
LARGEST_DIM = 2**31 - 1
HINT = 'write it like "x:[1,128] mask:[1,128]"'

_ENTRY = re.compile(r"\s*,?\s*(?P<name>[^\s\[\]]+?)\s*:\s*\[(?P<dims>[^\[\]]*)\]")


def parse_shapes(text: str, what: str = "input shapes") -> dict[str, tuple[int, ...]]:
    """The shapes by input name; "x:[]" is a scalar.

    Raises UsageError where the text is not of that form, a dimension is no whole number from 1, or a name
    comes twice.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    position = 0
    while text[position:].strip(" \t,"):
        entry = _ENTRY.match(text, position)
        if entry is None:
            raise UsageError(f"{what}: cannot read {text[position:].strip()!r} in {text!r}", hint=HINT)
        name = entry["name"]
        if name in shapes:
            raise UsageError(f"{what}: {name!r} is given twice in {text!r}", hint="give each input once")
        shapes[name] = _dims(entry["dims"], name, what)
        position = entry.end()
    if not shapes:
        raise UsageError(f"{what}: the text is empty", hint=HINT)
    return shapes


def _dims(text: str, name: str, what: str) -> tuple[int, ...]:
    if not text.strip():
        return ()
    dims = [word.strip() for word in text.split(",")]
    if len(dims) > MOST_RANK:
        raise UsageError(
            f"{what}: {name!r} has {len(dims)} dimensions, at most {MOST_RANK} expected", hint=HINT
        )
    for dim in dims:
        if not re.fullmatch(r"[0-9]{1,10}", dim) or not 1 <= int(dim) <= LARGEST_DIM:
            raise UsageError(
                f"{what}: dimension {dim!r} of {name!r}, expected a whole number from 1 to {LARGEST_DIM}",
                hint=HINT,
            )
    return tuple(int(dim) for dim in dims)


def format_shape(shape: tuple[int | str, ...]) -> str:
    """A shape as this module reads it: [batch,128]."""
    return f"[{','.join(str(dim) for dim in shape)}]"
