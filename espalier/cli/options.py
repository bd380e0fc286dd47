"""What the verbs share: common options, their parsers, and how results are shown.

A verb is a module with a click command named `command`:

    @click.command(short_help="One line for `espalier --help`.")
    @model_argument
    @target_option
    @common
    def command(model: Path, target: Target | None, output: Output) -> None:
        from espalier import api   # heavy imports wait until the verb runs

        inspection = api.inspect(model)
        output.show(inspection.to_dict(), lambda: output.table(COLUMNS, rows))

and a line in main.VERBS. Failures are raised as espalier.errors; main prints them.
"""

from __future__ import annotations

import functools
import io
import json
import logging
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from espalier.errors import UsageError, unknown
from espalier.files import check_output
from espalier.shapes import parse_shapes

if TYPE_CHECKING:
    from espalier.targets.target import Target


LOG_LEVELS = (logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG)
"""-q, nothing, -v, -vv."""

LOG_FORMAT = "%(levelname)s %(name)s: %(message)s"


@dataclass
class Session:
    """What main must know of the verb's options when it fails."""

    json: bool = False
    verbosity: int = 0


@dataclass(frozen=True)
class Output:
    """Where a verb's results, tables and progress go. Results: stdout; everything else: stderr."""

    json: bool
    quiet: bool

    def show(self, result: dict[str, Any], text: Callable[[], object]) -> None:
        """Prints `result` as one JSON object under --json; otherwise calls `text` to print it for people."""
        if self.json:
            click.echo(json.dumps(result))
        else:
            text()

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]], title: str = "") -> None:
        """Prints a table on stdout; numbers go to the right. Without a terminal no line is cut or folded."""
        from rich.console import Console
        from rich.table import Table

        table = Table(
            title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold"
        )
        for index, column in enumerate(columns):
            numeric = bool(rows) and all(isinstance(row[index], int | float) for row in rows)
            table.add_column(column, justify="right" if numeric else "left", overflow="fold")
        for row in rows:
            table.add_row(*(_cell(value) for value in row))
        if sys.stdout.isatty():
            Console(highlight=False).print(table)
            return
        text = io.StringIO()
        Console(file=text, width=100_000).print(table)
        click.echo("\n".join(line.rstrip() for line in text.getvalue().splitlines()))

    def note(self, text: str) -> None:
        """One line about what was done, on stderr; silent under -q and --json."""
        if not self.quiet and not self.json:
            click.echo(text, err=True)

    @contextmanager
    def step(self, text: str) -> Iterator[Callable[[str], None]]:
        """A spinner on stderr while the block runs, on a terminal only; what it yields changes the text."""
        if self.quiet or self.json or not sys.stderr.isatty():
            yield lambda text: None
            return
        from rich.console import Console

        with Console(stderr=True).status(text) as status:
            yield lambda text: status.update(text)


def _cell(value: object) -> str:
    from rich.markup import escape

    if isinstance(value, float):
        return f"{value:.4g}"
    return escape(str(value))


def show_version(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    """Prints the version and ends the command."""
    if value:
        from importlib.metadata import version

        click.echo(f"espalier {version('tvm-espalier')}")
        ctx.exit()


version_option = click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=show_version,
    help="Print the version.",
)


class Choice(click.ParamType):
    """One of a few names; the nearest is named where it is none of them."""

    name = "choice"

    def __init__(self, *names: str) -> None:
        self.names = names

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return "|".join(self.names)

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value not in self.names:
            where = param.opts[0] if param else "value"
            raise UsageError(f"{where}: unknown value {value!r}", hint=unknown("it", value, self.names))
        return value


class Names(Choice):
    """Some of a few names, separated by commas, each once and in the order of the list."""

    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        chosen = [Choice.convert(self, word.strip(), param, ctx) for word in value.split(",")]
        return tuple(name for name in self.names if name in chosen)


class Count(click.ParamType):
    """A whole number within bounds."""

    name = "number"

    def __init__(self, least: int, most: int) -> None:
        self.least, self.most = least, most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text = str(value)
        sound = text.isascii() and text.removeprefix("-").isdigit() and len(text) < 20
        if not sound or not self.least <= int(text) <= self.most:
            where = param.opts[0] if param else "value"
            expected = f"a whole number from {self.least} to {self.most}"
            raise UsageError(f"{where}: got {text!r}, expected {expected}", hint=f"give {expected}")
        return int(text)


def _shapes(_ctx: click.Context, parameter: click.Parameter, value: str | None) -> Shapes | None:
    return None if value is None else parse_shapes(value, parameter.opts[0])


def _target(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> Target | None:
    if value is None:
        return None
    from espalier.targets.parse import parse_target

    return parse_target(value)


def _output_path(_ctx: click.Context, _parameter: click.Parameter, value: Path | None) -> Path | None:
    if value is not None:
        check_output(value)
    return value


Shapes = dict[str, tuple[int, ...]]


class File(click.ParamType):
    """A path that the verb itself checks, so that each kind of file has its own exit code."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        return Path(value)


FILE = File()

model_argument = click.argument("model", metavar="MODEL.onnx", type=FILE)

target_option = click.option(
    "--target",
    metavar="T",
    callback=_target,
    help="What to compile for: a kind, a device of `espalier devices`, a tag, JSON, a JSON file, or "
    '"llvm -mcpu=cascadelake -num-cores=2". Default: this machine.',
)

input_shapes_option = click.option(
    "--input-shapes", metavar='"x:[1,128] .."', callback=_shapes, help="Fixes the shapes of the inputs."
)

max_shape_option = click.option(
    "--max-shape",
    metavar='"x:[8,512] .."',
    callback=_shapes,
    help="Largest shapes where the model leaves dimensions open. Default: batch 8, sequence 512.",
)

tuning_records_option = click.option(
    "--tuning-records",
    metavar="FILE",
    type=FILE,
    multiple=True,
    help="Times that `espalier tune` measured; may be given several times.",
)

threads_option = click.option(
    "--threads", metavar="N", type=Count(1, 1024), help="Threads to run with. Default: all cores."
)


def output_option(metavar: str, help: str, *, required: bool = False) -> Callable[[Any], Any]:
    """-o/--output, checked before any work is done."""
    return click.option(
        "-o",
        "--output",
        "path",
        metavar=metavar,
        type=FILE,
        required=required,
        callback=_output_path,
        help=help,
    )


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Ctrl-C ends the current step and keeps the work; a second one ends at once."""
    asked = False

    def ask(_signal: int, _frame: object) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)


def common(verb: Callable[..., None]) -> Callable[..., None]:
    """--json, -v, -q and --version; hands the verb an `output`."""

    @click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout, nothing else.")
    @click.option("-v", "--verbose", "verbosity", count=True, help="Log more (-vv: with tracebacks).")
    @click.option("-q", "--quiet", is_flag=True, help="Log errors only.")
    @version_option
    @click.pass_context
    @functools.wraps(verb)
    def wrapped(ctx: click.Context, *, as_json: bool, verbosity: int, quiet: bool, **options: Any) -> None:
        session = ctx.find_root().obj
        session.json, session.verbosity = as_json, verbosity
        level = LOG_LEVELS[0] if quiet else LOG_LEVELS[min(verbosity + 1, 3)]
        logging.basicConfig(format=LOG_FORMAT, stream=sys.stderr, force=True)
        logging.getLogger("espalier").setLevel(level)
        verb(output=Output(as_json, quiet), **options)

    return wrapped
