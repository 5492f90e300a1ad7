"""The ``kdiga`` command, and the one place where errors become a line and an exit status."""

from __future__ import annotations

import errno
import importlib
import os
import shlex
import signal
import sys
from contextlib import redirect_stdout
from types import FrameType
from typing import Any

import typer
from typer.core import TyperGroup

# The base of what Typer raises for a wrong command line; it has no public name of its own.
UsageError: Any = typer.BadParameter.__base__

INTERRUPTED = 130
GO_ON = "; what was finished is kept, and the same command goes on, `kdiga train` with --resume."

# Each a module of this package, in the order of the help.
COMMANDS = (
    "demo",
    "train",
    "inspect",
    "evaluate",
    "compare",
    "certify",
    "suitable",
    "explain",
    "export",
    "report",
    "cache",
    "profile",
    "study",
    "claims",
    "tune",
    "curve",
    "lists",
    "doctor",
)


class Commands(TyperGroup):
    """The commands, of which a mistyped one names the nearest."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take the command line apart; an empty one shows the help, which is no success."""
        if not args and not ctx.resilient_parsing:
            print(ctx.get_help(), file=sys.stderr)
            sys.exit(2)
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that is asked for.

        Raises:
            InputError: if there is none of that name.
        """
        from kdiga.errors import unknown

        if not ctx.resilient_parsing and self.get_command(ctx, args[0]) is None:
            raise unknown("command", args[0], self.list_commands(ctx), "See kdiga --help.")
        return super().resolve_command(ctx, args)


app = typer.Typer(
    name="kdiga",
    cls=Commands,
    help="Make a small model robust by distilling it from a robust one.",
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """Run the command line. Bad input ends in one line on stderr and exit status 2."""
    from kdiga.errors import InterruptedRunError

    signal.signal(signal.SIGTERM, _end)
    for command in COMMANDS:
        importlib.import_module(f"kdiga.cli.{command}")
    try:
        # Not standalone: Typer would print its own errors, in several lines. A result that goes to stdout moves it.
        with redirect_stdout(sys.stdout):
            status = app(prog_name="kdiga", standalone_mode=False) or 0
        if status == INTERRUPTED:  # newer Typers turn Ctrl-C into this status
            raise KeyboardInterrupt
        sys.exit(status)
    except BrokenPipeError:
        # The reader of our output, `head` say, has gone; there is nobody left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (Exception, KeyboardInterrupt, InterruptedRunError) as error:
        ending = _ending(error)
        if ending is None:
            raise
        message, status, once = ending
        _fail(message, status, once=once)


def _ending(error: BaseException) -> tuple[str, int, bool] | None:
    """Return what to say of an error, the exit status, and whether one of several processes is enough to say it.

    None is for an error that nobody foresaw.
    """
    from kdiga.errors import InterruptedRunError, KdigaError, ProcessLostError
    from kdiga.io.atomic_write import FULL, WriteError

    if isinstance(error, InterruptedRunError):
        return str(error), error.exit_status, True
    if isinstance(error, KdigaError):
        # The first process may be the one that was lost.
        return str(error), error.exit_status, not isinstance(error, ProcessLostError)
    if isinstance(error, UsageError):
        return _usage(error), 2, False
    if isinstance(error, typer.Abort | KeyboardInterrupt):
        return f"interrupted{GO_ON}", INTERRUPTED, True
    if isinstance(error, OSError):
        if error.errno in (*FULL, errno.EROFS):
            told = WriteError(error.filename or "stdout", error.errno)
            return str(told), told.exit_status, False
        return f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}", 1, False
    from kdiga.out_of_memory import describe_out_of_memory, is_out_of_memory  # loads PyTorch

    if is_out_of_memory(error):
        return describe_out_of_memory(error, "ask for smaller batches, fewer --examples or fewer --workers."), 1, False
    return None


def command_line() -> str:
    """Return what the user typed, for results to say how they were made."""
    return shlex.join(["kdiga", *sys.argv[1:]])


def _usage(error: Any) -> str:
    """Return what is wrong with a command line, and whose help to read."""
    from kdiga.errors import nearest

    known = [] if error.ctx is None else [name for one in error.ctx.command.params for name in one.opts]
    message = error.format_message().rstrip(".")
    if type(error).__name__ == "NoSuchOption":  # not public, either
        close = nearest(error.option_name, [*known, "--help"], most=1)
        message = f"option {error.option_name!r} is not known"
        message += f"; did you mean {close[0]}?" if close else "."
    else:
        message += "."
    return f"{message} See {'kdiga' if error.ctx is None else error.ctx.command_path} --help."


def _end(number: int, _frame: FrameType | None) -> None:
    """End on SIGTERM as on an error: workers are told and locks are freed on the way out."""
    from kdiga.errors import InterruptedRunError

    raise InterruptedRunError(number, f"ended by SIGTERM{GO_ON}")


def _fail(message: str, status: int, *, once: bool = False) -> None:
    """Say why in a line and exit.

    Args:
        message: what to say.
        status: to exit with.
        once: of several processes that a launcher started, only the first says it.
    """
    from kdiga.distributed.launch import is_main_process

    if is_main_process() or not once:
        for line in message.splitlines():
            print(f"kdiga: {line}", file=sys.stderr)
    sys.exit(status)
