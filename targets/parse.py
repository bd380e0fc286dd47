"""From what a user writes after --target to a target.

Accepted: a kind (`llvm`), a device name (`host`, `cascadelake`), a tag of TVM (`aws/cpu/c5.xlarge`), JSON, a
JSON file, and the string form of older TVMs (`llvm -mcpu=cascadelake -num-cores=2`).
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from espalier.errors import UnavailableError, UsageError, unknown
from espalier.targets import registry
from espalier.targets.target import Target

IGNORED = ("keys", "tag")
"""What TVM adds to the JSON of a target and says nothing more about the machine."""

MOST_BYTES = 1 << 20
"""A target file is a few lines; more is some other file."""


def parse_target(text: str) -> Target:
    """The target that `text` means.

    Raises UsageError where the text or one of its names or values is wrong, UnavailableError for a target
    that is known and cannot be compiled for.
    """
    text = text.strip()
    if not text:
        raise UsageError("the target is empty", hint="leave --target out to compile for this machine")
    if text.startswith("{"):
        return _resolve(_from_json(text, "the target"))
    if text.split()[0].startswith("-"):
        raise UsageError(
            f"target {text!r} does not begin with a kind",
            hint=f'write "llvm {text}" or a name of `espalier devices`',
        )
    if any(character.isspace() for character in text):
        return _resolve(_from_string(text))
    if text in registry.devices():
        return registry.devices()[text].target
    tags = {tag: spec for family in registry.families() for tag, spec in family.tags().items()}
    if text in tags:
        return _resolve(dict(tags[text]))
    if text.endswith(".json") or Path(text).is_file():
        return _resolve(_from_json(_read(Path(text)), text))
    if text in registry.kinds() or text in registry.PLANNED:
        return _resolve({"kind": text})
    names = (*registry.devices(), *registry.kinds(), *registry.PLANNED, *tags)
    raise UsageError(f"unknown target {text!r}", hint=unknown("a target", text, names))


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise UsageError(
            f"target file {path}: {error.strerror or error}", hint="give the path of a readable JSON file"
        ) from None
    if len(content) > MOST_BYTES:
        raise UsageError(f"target file {path} is larger than {MOST_BYTES} bytes", hint="give a JSON target")
    return content.decode("utf-8", errors="replace")


def _from_json(text: str, where: str) -> dict[str, object]:
    try:
        value = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise UsageError(
            f"{where} is not JSON: {error}", hint='write it like {"kind": "llvm", "mcpu": "cascadelake"}'
        ) from None
    if not isinstance(value, dict) or not isinstance(value.get("kind"), str):
        raise UsageError(
            f"{where} has no target kind",
            hint='a JSON target is an object with "kind", such as {"kind": "llvm"}',
        )
    return value


def _from_string(text: str) -> dict[str, object]:
    try:
        kind, *words = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"target {text!r}: {error}", hint='write it like "llvm -mcpu=cascadelake"') from None
    registry.check_kind(kind)
    specification: dict[str, object] = {"kind": kind}
    while words:
        word = words.pop(0)
        if not word.startswith("-"):
            raise UsageError(
                f"target {text!r}: {word!r} is no option",
                hint='options are written -name=value, as in "llvm -mcpu=skylake"',
            )
        name, equals, value = word.lstrip("-").partition("=")
        if not equals and words and not words[0].startswith("-"):
            value = words.pop(0)
        elif not equals:
            raise UsageError(f"target {text!r}: option -{name} has no value", hint=f"write -{name}=value")
        if name in specification:
            raise UsageError(f"target {text!r}: option -{name} is given twice", hint="give it once")
        specification[name] = value
    return specification


def _resolve(specification: dict[str, object]) -> Target:
    kind = str(specification["kind"])
    registry.check_kind(kind)
    mine = [family for family in registry.families() if kind == family.KIND]
    for family in mine:
        checked: dict[str, object] = {"kind": kind}
        for name, value in specification.items():
            if name == "kind" or name in IGNORED:
                continue
            if name not in family.OPTIONS:
                raise UsageError(
                    f"target kind {kind!r} has no option {name!r}",
                    hint=unknown("an option", name, family.OPTIONS),
                )
            try:
                checked[name] = family.OPTIONS[name](value)
            except (TypeError, ValueError) as error:
                raise UsageError(
                    f"target option {name}: {error}", hint=f"correct the value {value!r} of {name}"
                ) from None
        target = family.resolve(checked)
        if target is not None:
            return target
    raise UnavailableError(
        f"no back end for {specification.get('mtriple', kind)} in this version",
        hint="compile for an x86-64 CPU; `espalier devices` lists what is known",
    )
