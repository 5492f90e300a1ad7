"""The errors a caller can cause. Each says what was given, what is accepted and what to do, in one line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence


class KdigaError(Exception):
    """Every error that kdiga raises on purpose.

    The command line prints it as one line and exits with ``exit_status``.
    """

    exit_status = 2


class InputError(KdigaError, ValueError):
    """An argument, file, recipe or batch that kdiga does not accept."""


class DivergedError(KdigaError, RuntimeError):
    """Training left the region where its result would mean anything; names the loss term."""

    exit_status = 1


class OutOfMemoryError(KdigaError, RuntimeError):
    """Memory ran out, of the machine or of its accelerator; says what to reduce."""

    exit_status = 1


class KdigaWarning(UserWarning):
    """Something that works and is hardly ever meant; told once, in one sentence."""


class ProcessLostError(KdigaError, RuntimeError):
    """Another process of the same run has ended, so that this one cannot go on."""

    exit_status = 1

    def __init__(self, reason: BaseException) -> None:
        told = reason_of(reason, 400)
        told = re.sub(r"^\[[^\]]*\.cc:\d+\] ", "", told)[:100]  # a place in the backend's source tells nobody anything
        super().__init__(
            f"another process of this run ended or cannot be reached ({told}). What was saved last is kept; the same "
            "command continues from there with --resume."
        )


class InterruptedRunError(SystemExit):
    """A signal ended a run after its state had been saved.

    A ``SystemExit``, so that nothing which catches errors takes it for one.

    Args:
        signal: its number; the exit status is 128 more.
        message: what to tell, in one line.
    """

    def __init__(self, signal: int, message: str) -> None:
        super().__init__(128 + signal)
        self.signal, self.exit_status, self.message = signal, 128 + signal, message

    def __str__(self) -> str:
        return self.message


def some(names: Sequence[str], most: int) -> str:
    """Return the first names of a list, and how many more there are.

    >>> some(["a", "b", "c"], 2)
    'a, b and 1 more'
    """
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def reason_of(error: BaseException, most: int = 120) -> str:
    """Return why something failed in a few words: the first line of its message, else the name of its kind.

    >>> reason_of(ValueError("too long" + chr(10) + "see above")), reason_of(KeyError())
    ('too long', 'KeyError')
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:most]


def words_of(error: BaseException, most: int = 100) -> str:
    """Return the whole message of a library's error in one line, cut, for it may hold as much as a file; else its kind.

    >>> words_of(ValueError("expected ']'" + chr(10) + "in line 3")), words_of(ValueError("x" * 9999), 3)
    ("expected ']' in line 3", 'xxx')
    """
    return " ".join(str(error).split())[:most] or type(error).__name__


def nearest(given: str, choices: Iterable[str], *, most: int = 3) -> list[str]:
    """Return up to ``most`` of ``choices`` that look like ``given``, best first."""
    return difflib.get_close_matches(given, list(choices), n=most, cutoff=0.5)


def unknown(what: str, given: str, choices: Iterable[str], remedy: str = "") -> InputError:
    """Build the error for a name that is not one of ``choices``, offering the nearest ones."""
    choices = list(choices)
    close = nearest(given, choices)
    hint = f"did you mean {' or '.join(close)}?" if close else f"accepted: {', '.join(choices)}."
    return InputError(f"{what} {given!r} is not known; {hint}{' ' + remedy if remedy else ''}")
