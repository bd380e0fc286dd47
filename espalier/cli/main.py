"""The command `espalier`: finds the verb, runs it, and turns every failure into two lines and an exit code.

Only the module of the chosen verb is imported, and no verb imports TVM or numpy before it needs them.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module

import click

from espalier.cli.options import Session, version_option
from espalier.errors import EspalierError, StoppedError, UsageError, unknown

VERBS = {
    "demo": "espalier.cli.demo",
    "inspect": "espalier.cli.inspect",
    "compile": "espalier.cli.compile",
    "run": "espalier.cli.run",
    "tune": "espalier.cli.tune",
    "bench": "espalier.cli.bench",
    "prune": "espalier.cli.prune",
    "devices": "espalier.cli.devices",
    "report": "espalier.cli.report",
}
"""Each verb's module, which has the click command under the name `command`. The order is that of --help."""

BUG_HINT = "this is a bug in Espalier; please report it with the output of the same command with -vv"


INTERRUPTED = StoppedError("interrupted", hint="nothing was written; run the same command again")


class Verbs(click.Group):
    """The group of all verbs, imported when named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return import_module(VERBS[cmd_name]).command if cmd_name in VERBS else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            raise UsageError(f"unknown verb {args[0]!r}", hint=unknown("a verb", args[0], VERBS))
        return super().resolve_command(ctx, args)


@click.command(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@version_option
def espalier() -> None:
    """From a pruned Transformer in ONNX to kernels for each device.

    `espalier VERB --help` explains a verb.
    """


class BugError(EspalierError):
    """An exception that no code foresaw."""


@contextmanager
def _remembered_interruption() -> Iterator[Callable[[], bool]]:
    """Ctrl-C raises KeyboardInterrupt as ever, and is remembered: TVM makes another exception of it."""
    came = False

    def stop(_signal: int, _frame: object) -> None:
        nonlocal came
        came = True
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, stop)
    try:
        yield lambda: came
    finally:
        signal.signal(signal.SIGINT, before)


def run(arguments: Sequence[str]) -> int:
    """Runs one command line and returns its exit code."""
    with _remembered_interruption() as interrupted:
        return _run(arguments, interrupted)


def _run(arguments: Sequence[str], interrupted: Callable[[], bool]) -> int:
    session = Session()
    try:
        # click's own main() has other exit codes for an interruption and for a closed pipe
        with espalier.make_context("espalier", list(arguments), obj=session) as context:
            espalier.invoke(context)
        sys.stdout.flush()
        return 0
    except click.exceptions.Exit as done:
        return done.exit_code
    except EspalierError as error:
        failure = error
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help(), err=True)
        failure = UsageError("no verb is given", hint="try `espalier inspect MODEL.onnx`")
    except click.ClickException as error:
        failure = _from_click(error)
    except (KeyboardInterrupt, click.Abort):
        failure = INTERRUPTED
    except BrokenPipeError:
        # the reader has what it wanted; keep Python from complaining again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # noqa: BLE001 the last line of defence: users see two lines, never a traceback
        if session.verbosity >= 2:
            traceback.print_exc()
        failure = BugError(f"internal error: {type(error).__name__}: {str(error)[:500]}", hint=BUG_HINT)
        failure = INTERRUPTED if interrupted() else failure
    # an error in the options themselves comes before --json is parsed
    _report(failure, as_json=session.json or "--json" in arguments)
    return failure.code


def _from_click(error: click.ClickException) -> UsageError:
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "espalier"
    if isinstance(error, click.NoSuchOption):
        parameters = context.command.get_params(context) if context else ()
        known = [name for parameter in parameters for name in parameter.opts if name.startswith("-")]
        return UsageError(
            f"{command} has no option {error.option_name!r}",
            hint=unknown("an option", error.option_name, known),
        )
    message = error.format_message().rstrip(".")
    return UsageError(message[:1].lower() + message[1:], hint=f"see `{command} --help`")


def _report(failure: EspalierError, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"error": failure.to_dict()}))
    click.echo(f"error: {failure.message}\nhint: {failure.hint}", err=True)


def main() -> None:
    """The entry point of the command."""
    sys.exit(run(sys.argv[1:]))
