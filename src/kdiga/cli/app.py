"""The ``kdiga`` command, and the one place where errors become a line and an exit status."""

from __future__ import annotations

import importlib
import os
import shlex
import signal
import sys
from types import FrameType
from typing import Any

import typer

# The base of what Typer raises for a wrong command line; it has no public name of its own.
UsageError: Any = typer.BadParameter.__base__

INTERRUPTED = 130

# Each a module of this package, in the order of the help.
COMMANDS = (
    "demo", "train", "inspect", "evaluate", "compare", "certify", "suitable", "explain", "export", "report", "cache",
    "profile", "study", "claims", "tune", "curve", "lists",
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
    from kdiga.errors import InterruptedRunError, KdigaError, ProcessLostError

    signal.signal(signal.SIGTERM, _end)
    for command in COMMANDS:
        importlib.import_module(f"kdiga.cli.{command}")
    try:
        # Not standalone: Typer would print its own errors, in several lines.
        status = app(standalone_mode=False) or 0
        if status == INTERRUPTED:  # newer Typers turn Ctrl-C into this status
            raise KeyboardInterrupt
        sys.exit(status)
    except InterruptedRunError as error:
        _fail(str(error), error.exit_status, once=True)
    except KdigaError as error:
        # The first process may be the one that was lost.
        _fail(str(error), error.exit_status, once=not isinstance(error, ProcessLostError))
    except UsageError as error:
        _fail(f"{error.format_message().rstrip('.')}. See kdiga --help.", 2)
    except (typer.Abort, KeyboardInterrupt):
        _fail("interrupted; what was finished is kept. `kdiga train` continues with --resume.", INTERRUPTED, once=True)
    except BrokenPipeError:
        # The reader of our output, `head` say, has gone; there is nobody left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        _fail(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}", 1)


def command_line() -> str:
    """Return what the user typed, for results to say how they were made."""
    return shlex.join(["kdiga", *sys.argv[1:]])


def _end(number: int, _frame: FrameType | None) -> None:
    """End on SIGTERM as on an error: workers are told and locks are freed on the way out."""
    from kdiga.errors import InterruptedRunError

    raise InterruptedRunError(number, "ended by SIGTERM; what was finished is kept, and the same command goes on.")


def _fail(message: str, status: int, *, once: bool = False) -> None:
    """Say why in a line and exit.

    Args:
        message: what to say.
        status: to exit with.
        once: of several processes that a launcher started, only the first says it.
    """
    from kdiga.processes import leads

    if leads() or not once:
        for line in message.splitlines():
            print(f"kdiga: {line}", file=sys.stderr)
    sys.exit(status)
