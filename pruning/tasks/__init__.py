"""Tasks: data, model and metric of each. `open_task` makes one by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from espalier.errors import UsageError, unknown

if TYPE_CHECKING:
    from espalier.pruning.tasks.task import Task


def _digits(data: Path | None, model: Path | None) -> Task:
    from espalier.pruning.tasks.digits import Digits

    for option, value in (("--data", data), ("model", model)):
        if value is not None:
            raise UsageError(f"task digits takes no {option}: it has its own", hint=f"leave out {value}")
    return Digits()


def _wikitext(name: str) -> Callable[[Path | None, Path | None], Task]:
    def make(data: Path | None, model: Path | None) -> Task:
        from espalier.pruning.tasks.wikitext2 import WikiText2, WikiText2Small

        if model is not None:
            raise UsageError(f"task {name} takes no model: it has its own", hint=f"leave out {model}")
        return (WikiText2Small if name.endswith("small") else WikiText2)(data)

    return make


def _glue(name: str) -> Callable[[Path | None, Path | None], Task]:
    def make(data: Path | None, model: Path | None) -> Task:
        from espalier.pruning.tasks.glue import FORMATS, Glue

        return Glue(FORMATS[name], data, model)

    return make


TASKS: dict[str, Callable[[Path | None, Path | None], Task]] = {
    "digits": _digits,
    "wikitext-2": _wikitext("wikitext-2"),
    "wikitext-2-small": _wikitext("wikitext-2-small"),
    **{name: _glue(name) for name in ("sst-2", "sts-b", "cola", "mrpc", "qqp", "mnli", "qnli", "rte")},
}
"""Name -> (folder of the data, folder of a Hugging Face model) -> the task."""


def open_task(name: str, *, data: Path | None = None, model: Path | None = None) -> Task:
    """The task of a name.

    data: folder of its files (digits needs none). model: a Hugging Face folder with an encoder, for the GLUE
    tasks; None for a small one from scratch. Raises UsageError for an unknown name, DataError for missing or
    wrong files, ModelError for a folder that holds no encoder.
    """
    if name not in TASKS:
        raise UsageError(f"task {name!r} is unknown", hint=unknown("a task", name, TASKS))
    return TASKS[name](data, model)
