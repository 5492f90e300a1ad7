"""Errors that a caller can cause. Each says what was given, what is accepted and what to do, in one line."""

from __future__ import annotations

import difflib
import inspect
import re
import warnings
from collections.abc import Iterable, Sequence

# Control characters but newline and tab, marks of direction, and half surrogate pairs.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class KdigaError(Exception):
    """Every error that kdiga raises on purpose.

    The command line prints it as one line and exits with ``exit_status``.
    """

    exit_status = 2


class InputError(KdigaError, ValueError):
    """An argument, file, recipe or batch that kdiga does not accept."""


class DivergedError(KdigaError, RuntimeError):
    """Training reached a state without a useful result; the message names the loss term."""

    exit_status = 1


class OutOfMemoryError(KdigaError, RuntimeError):
    """The memory of the machine or of its accelerator ran out; the message says what to reduce."""

    exit_status = 1


class KdigaWarning(UserWarning):
    """Something that works and is rarely intended; shown once, in one sentence."""


def warn(message: str) -> None:
    """Give a :class:`KdigaWarning` with the line of the first caller outside this package."""
    level, frame = 1, inspect.currentframe()
    while frame is not None and str(frame.f_globals.get("__name__")).startswith("kdiga."):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, KdigaWarning, stacklevel=level)


class ProcessLostError(KdigaError, RuntimeError):
    """Another process of the same run has ended, so this one cannot continue."""

    exit_status = 1

    def __init__(self, reason: BaseException) -> None:
        cause = reason_of(reason, 400)
        cause = re.sub(r"^\[[^\]]*\.cc:\d+\] ", "", cause)[:100]  # without the line in the backend's source
        super().__init__(
            f"another process of this run ended or cannot be reached ({cause}). The last saved state is valid; "
            "continue from it with the same command and --resume."
        )


class InterruptedRunError(SystemExit):
    """A signal ended a run after its state had been saved.

    It is a ``SystemExit``, so that code which catches ``Exception`` does not catch it.

    Args:
        signal: Number of the signal; the exit status is 128 more.
        message: Message of one line.
    """

    def __init__(self, signal: int, message: str) -> None:
        super().__init__(128 + signal)
        self.signal, self.exit_status, self.message = signal, 128 + signal, message

    def __str__(self) -> str:
        return self.message


def printable(text: str) -> str:
    """Return text for a terminal, with control characters and changes of direction as escapes.

    A name in a file could otherwise change the title or the colours of a terminal, or hide text.

    >>> print(printable("r" + chr(27) + "[31md").replace(chr(92), "/"))
    r/x1b[31md
    """
    return CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def some(names: Sequence[str], most: int) -> str:
    """Return the first names of a list, and the number of the others.

    >>> some(["a", "b", "c"], 2)
    'a, b and 1 more'
    """
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def reason_of(error: BaseException, most: int = 120) -> str:
    """Return the first line of an error's message, cut to ``most`` characters; without a message its type's name.

    >>> reason_of(ValueError("too long" + chr(10) + "see above")), reason_of(KeyError())
    ('too long', 'KeyError')
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:most]


def words_of(error: BaseException, most: int = 100) -> str:
    """Return an error's whole message as one line, cut to ``most`` characters; without a message its type's name.

    >>> words_of(ValueError("expected ']'" + chr(10) + "in line 3")), words_of(ValueError("x" * 9999), 3)
    ("expected ']' in line 3", 'xxx')
    """
    return " ".join(str(error).split())[:most] or type(error).__name__


def nearest(given: str, choices: Iterable[str], *, most: int = 3) -> list[str]:
    """Return up to ``most`` of ``choices`` similar to ``given``, best first."""
    return difflib.get_close_matches(given, list(choices), n=most, cutoff=0.5)


def unknown(what: str, given: str, choices: Iterable[str], remedy: str = "") -> InputError:
    """Return the error for a name that is not one of ``choices``; it offers the nearest ones."""
    choices = list(choices)
    close = nearest(given, choices)
    hint = f"did you mean {' or '.join(close)}?" if close else f"accepted: {', '.join(choices)}."
    return InputError(f"{what} {given!r} is not known; {hint}{' ' + remedy if remedy else ''}")


def check_known(what: str, given: str, choices: Iterable[str], remedy: str = "") -> None:
    """Check that a name is one of ``choices``; the error is that of :func:`unknown`."""
    choices = list(choices)
    if given not in choices:
        raise unknown(what, given, choices, remedy)


def check_at_least(least: int, **values: float | None) -> None:
    """Check that numbers, by their names, are at least ``least``; None counts as not given.

    >>> check_at_least(1, epochs=1, examples=None)
    """
    for name, value in values.items():
        if value is not None and value < least:
            raise InputError(f"{name} was {value!r}; it must be at least {least}.")
