"""The ``kdiga`` command; here errors become one line and an exit status."""

from __future__ import annotations

import codecs
import errno
import importlib
import io
import os
import shlex
import signal
import sys
from contextlib import redirect_stdout
from types import FrameType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

# The base class of Typer's errors for a wrong command line; it has no public name.
UsageError: Any = typer.BadParameter.__base__

INTERRUPTED = 130
CONTINUE = (
    ". Finished work is saved. Run the same command again to continue (for `kdiga train`, add --resume; `kdiga demo` "
    "starts anew with --overwrite)."
)

# Modules of this package, in the order of the help.
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
    """The commands; the error for a mistyped one names the nearest."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the command line; an empty one shows the help and fails."""
        if not args and not ctx.resilient_parsing:
            print(ctx.get_help(), file=sys.stderr)
            sys.exit(2)
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command."""
        from kdiga.errors import unknown

        if not ctx.resilient_parsing and self.get_command(ctx, args[0]) is None:
            raise unknown("command", args[0], self.list_commands(ctx), "See kdiga --help.")
        return super().resolve_command(ctx, args)


app = typer.Typer(
    name="kdiga",
    cls=Commands,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"kdiga {version('kdiga')}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and stop.")
]


@app.callback()
def about(*, version: Version = False) -> None:  # pyright: ignore[reportUnusedParameter] (its callback prints it)
    """Make a small model robust by distilling it from a robust one."""


def main() -> None:
    """Run the command line. Bad input ends in one line on stderr and exit status 2."""
    from kdiga.errors import InterruptedRunError

    _prepare_streams()
    _heed_signals()
    for command in COMMANDS:
        importlib.import_module(f"kdiga.cli.{command}")
    try:
        # Not standalone: Typer would print its own errors, in several lines. ``--json -`` replaces stdout.
        with redirect_stdout(sys.stdout):
            status = app(prog_name="kdiga", standalone_mode=False) or 0
        if status == INTERRUPTED:  # newer Typers turn Ctrl-C into this status
            raise KeyboardInterrupt
        sys.exit(status)
    except BrokenPipeError:
        # The reader of our output, such as `head`, has closed the pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (Exception, KeyboardInterrupt, InterruptedRunError) as error:
        ending = _ending(error)
        if ending is None:
            raise
        from kdiga.distributed.launch import is_main_process
        from kdiga.errors import printable

        message, status, once = ending
        if is_main_process() or not once:
            for line in message.splitlines():
                print(f"kdiga: {printable(line)}", file=sys.stderr)
        sys.exit(status)
    finally:
        _leave_signals()


ENDING = (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM))  # signals on which a command saves and ends
PLAIN = {"\u2212": "-", "\u2013": "-", "\u2026": "...", "\u00d7": "x", "\u00b1": "+-", "\u2264": "<=", "\u2265": ">="}


def _prepare_streams() -> None:
    """Replace closed streams, and let the others write any text in any encoding."""
    codecs.register_error("kdiga", _in_plain_characters)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123 (until the end)
        elif isinstance(stream, io.TextIOWrapper) and stream.encoding.lower().replace("-", "") != "utf8":
            stream.reconfigure(errors="kdiga")


def _in_plain_characters(error: UnicodeError) -> tuple[str, int]:
    """Return the replacement of characters that an encoding lacks, and the place behind them."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    characters = error.object[error.start : error.end]
    plain = [PLAIN.get(one) or one.encode("ascii", "backslashreplace").decode() for one in characters]
    return "".join(plain), error.end


def _ending(error: BaseException) -> tuple[str, int, bool] | None:
    """Return the message of an error, the exit status, and whether only the first of several processes prints it.

    Returns None for an unexpected error.
    """
    from kdiga.errors import InterruptedRunError, KdigaError, ProcessLostError
    from kdiga.io.atomic_write import FULL, WriteError

    if isinstance(error, InterruptedRunError):
        return str(error), error.exit_status, True
    if isinstance(error, KdigaError):
        # The lost process may be the first one.
        return str(error), error.exit_status, not isinstance(error, ProcessLostError)
    if isinstance(error, UsageError):
        return _usage(error), 2, False
    if isinstance(error, typer.Abort | KeyboardInterrupt):
        return f"interrupted{CONTINUE}", INTERRUPTED, True
    if isinstance(error, OSError):
        if error.errno in (*FULL, errno.EROFS):
            full = WriteError(error.filename or "stdout", error.errno)
            return str(full), full.exit_status, False
        return f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}", 1, False
    from kdiga.out_of_memory import describe_out_of_memory, is_out_of_memory  # loads PyTorch

    if is_out_of_memory(error):
        return describe_out_of_memory(error, "ask for smaller batches, fewer --examples or fewer --workers."), 1, False
    return None


def command_line() -> str:
    """Return the command line of the user, for result files."""
    return shlex.join(["kdiga", *sys.argv[1:]])


def _usage(error: Any) -> str:
    """Return the error of a command line, and the command for its help."""
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


def _heed_signals() -> None:
    """End on SIGTERM, and on SIGHUP of a closed terminal, unless it is ignored, as with nohup."""
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)


def _leave_signals() -> None:
    """End at once on signals from here on: an exception while Python ends would be a traceback."""
    for number in ENDING:
        if signal.getsignal(number) is _end:
            signal.signal(number, signal.SIG_DFL)


def _end(number: int, _frame: FrameType | None) -> None:
    """End on a signal as on an error, so that workers end and locks are released."""
    from kdiga.errors import InterruptedRunError

    raise InterruptedRunError(number, f"ended by {signal.Signals(number).name}{CONTINUE}")
