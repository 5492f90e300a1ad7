"""The ``kdiga`` command, and the one place where errors become a line and an exit status."""

from __future__ import annotations

import importlib
import os
import sys

import typer

app = typer.Typer(
    name="kdiga",
    help="Make a small model robust by distilling it from a robust one.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """Run the command line. Bad input ends in one line on stderr and exit status 2."""
    from kdiga.errors import KdigaError

    for command in ("train", "evaluate", "demo", "lists"):
        importlib.import_module(f"kdiga.cli.{command}")
    try:
        app()
    except KdigaError as error:
        _fail(str(error), error.exit_status)
    except KeyboardInterrupt:
        _fail("interrupted; what was finished is kept. `kdiga train` continues with --resume.", 130)
    except BrokenPipeError:
        # The reader of our output, `head` say, has gone; there is nobody left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        _fail(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}", 1)


def _fail(message: str, status: int) -> None:
    for line in message.splitlines():
        print(f"kdiga: {line}", file=sys.stderr)
    sys.exit(status)
