"""`espalier report`: a folder of results to one HTML file."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from pydantic import BaseModel, ValidationError

from espalier.errors import DataError
from espalier.files import atomic
from espalier.report.charts import Bar, bars
from espalier.report.results import RESULTS, Benchmark, Ranking

MOST_BYTES = 64 << 20
TITLE = "Espalier report"


def write_report(folder: Path, output: Path | None = None, *, title: str = TITLE) -> Path:
    """Write `folder`/report.html (or `output`) from the results in `folder` and return its path.

    Raises DataError where the folder is missing, holds no result, or a result is damaged; UsageError where
    the output cannot be written.
    """
    page = render(read_results(folder), title=title)
    path = output or folder / "report.html"
    with atomic(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def read_results(folder: Path) -> dict[str, BaseModel]:
    """The results of `folder` by name, in the order of RESULTS; raises DataError."""
    names = ", ".join(f"{name}.json" for name in RESULTS)
    if not folder.is_dir():
        raise DataError(
            f"results folder {folder}: no such folder", hint=f"give a folder with some of: {names}"
        )
    found = {name: _read(folder / f"{name}.json") for name in RESULTS if (folder / f"{name}.json").exists()}
    if not found:
        raise DataError(
            f"results folder {folder} holds no result",
            hint=f"put the output of a verb's --json there, as one of: {names}",
        )
    return found


def render(results: dict[str, BaseModel], *, title: str = TITLE) -> str:
    """The page. It loads nothing: styles and charts are inside."""
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["label"] = _label
    source = resources.files("espalier.report").joinpath("report.html.j2").read_text(encoding="utf-8")
    template = environment.from_string(source)
    shown = {name: results.get(name) for name in RESULTS}
    return template.render(title=title, results=shown, charts=_charts(results))


def _charts(results: dict[str, BaseModel]) -> dict[str, str]:
    """The charts of those results that have one."""
    drawn = {}
    bench, rank = results.get("bench"), results.get("rank")
    if isinstance(bench, Benchmark):
        timed = [(one, one.time_ms) for one in bench.entries if one.time_ms]
        drawn["bench"] = bars(
            [
                Bar(f"{one.model}, {one.peer}", ms.median, ms.p5, ms.p95, one.peer == "espalier")
                for one, ms in timed
            ]
        )
    if isinstance(rank, Ranking):
        drawn["rank"] = bars(
            [
                Bar(f"{one.name} ({one.how})", one.latency_ms, one.low_ms, one.high_ms, one.name == rank.best)
                for one in rank.devices
            ],
            limit=rank.lc_ms,
        )
    return drawn


def _read(path: Path) -> BaseModel:
    """One result; raises DataError where it is none."""
    hint = f"write it again with --json, or remove {path.name}"
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise DataError(f"result {path} is larger than {MOST_BYTES} bytes", hint=hint)
        return RESULTS[path.stem].model_validate(json.loads(content))
    except OSError as error:
        raise DataError(f"result {path}: {error.strerror or error}", hint=hint) from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise DataError(f"result {path}: {where}: {first['msg']}", hint=hint) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"result {path} is not JSON: {error}", hint=hint) from None


def _label(structure: str, params: dict[str, object]) -> str:
    """HP(B=32,kc=192): a structure with its parameters on one line."""
    inside = ",".join(f"{key}={value}" for key, value in params.items())
    return f"{structure}({inside})" if inside else structure
