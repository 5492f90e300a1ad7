"""The ``kdiga`` command, and the one place where errors become a line and an exit status."""

from __future__ import annotations

import importlib
import os
import shlex
import sys
from typing import Any

import typer

# The base of what Typer raises for a wrong command line; it has no public name of its own.
UsageError: Any = typer.BadParameter.__base__

INTERRUPTED = 130

# Each a module of this package, in the order of the help.
COMMANDS = (
    "demo", "train", "evaluate", "compare", "certify", "suitable", "explain", "export", "report", "cache", "profile",
    "study", "tune", "curve", "lists",
)  # fmt: skip

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

    for command in COMMANDS:
        importlib.import_module(f"kdiga.cli.{command}")
    try:
        # Not standalone: Typer would print its own errors, in several lines.
        status = app(standalone_mode=False) or 0
        if status == INTERRUPTED:  # newer Typers turn Ctrl-C into this status
            raise KeyboardInterrupt
        sys.exit(status)
    except KdigaError as error:
        _fail(str(error), error.exit_status)
    except UsageError as error:
        _fail(f"{error.format_message().rstrip('.')}. See kdiga --help.", 2)
    except (typer.Abort, KeyboardInterrupt):
        _fail("interrupted; what was finished is kept. `kdiga train` continues with --resume.", INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output, `head` say, has gone; there is nobody left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        _fail(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}", 1)


def command_line() -> str:
    """Return what the user typed, for results to say how they were made."""
    return shlex.join(["kdiga", *sys.argv[1:]])


def _fail(message: str, status: int) -> None:
    for line in message.splitlines():
        print(f"kdiga: {line}", file=sys.stderr)
    sys.exit(status)
