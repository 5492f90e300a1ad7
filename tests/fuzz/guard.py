"""What reading may take of the processor, the clock and memory; more is a defect that is told, not one that is felt."""

from __future__ import annotations

import math
import resource
import signal
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

NO_MEMORY = ("allocate memory", "std::bad_alloc")  # how libraries say it that raise no MemoryError


class HangError(BaseException):
    """Reading took too long; no ``Exception``, so that nothing catches it on the way."""


class GreedError(BaseException):
    """Reading took too much memory."""


@dataclass(frozen=True)
class Limits:
    """What one input may take.

    Args:
        seconds: of the processor.
        wait: seconds by the clock, which other processes may take most of.
        peak: bytes in use beyond what was in use before.
        room: bytes of addresses beyond those before, past which the system refuses more.
    """

    seconds: float = 5.0
    wait: float = 120.0
    peak: int = 1 << 30
    room: int = 4 << 30


@contextmanager
def guarded(limits: Limits) -> Generator[None]:
    """Raise HangError or GreedError if the block takes more than it may.

    A refusal because memory ran out is greed as well: with more of it, the file would have been given more. The limit
    on addresses is gone again after the block, so that what comes later in the process has all there is.
    """
    with _roomy(limits.room), within(limits.seconds, limits.wait):
        before = _reset_peak()
        try:
            yield
        except Exception as error:
            if _ran_out(error):
                raise GreedError(f"asked for more than {limits.room >> 20:,} MiB: {error!s:.200}") from error
            raise
        taken = _peak() - before
        if taken > limits.peak:
            raise GreedError(f"took {taken >> 20:,} MiB, more than {limits.peak >> 20:,}")


@contextmanager
def within(seconds: float, wait: float = 120.0) -> Generator[None]:
    """Raise HangError if the block takes more of the processor, or of the clock.

    Python code, and what asks Python for signals now and then, as regular expressions do; for a loop inside a library,
    see :func:`end_after`.
    """

    def end(number: int, _frame: FrameType | None) -> None:
        raise HangError(f"longer than {seconds:g} s" if number == signal.SIGPROF else f"waited for {wait:g} s")

    before = [signal.signal(number, end) for number in (signal.SIGPROF, signal.SIGALRM)]
    # Again and again: what is raised while Python is in a destructor or forms another error is lost.
    signal.setitimer(signal.ITIMER_PROF, seconds, 0.2)
    signal.setitimer(signal.ITIMER_REAL, wait, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in zip((signal.SIGPROF, signal.SIGALRM), before, strict=True):
            signal.signal(number, handler)


def end_after(seconds: float) -> None:
    """Have the system end this process by SIGXCPU once it has taken so much more of the processor."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    at = math.ceil(usage.ru_utime + usage.ru_stime + seconds)
    resource.setrlimit(resource.RLIMIT_CPU, (at, resource.getrlimit(resource.RLIMIT_CPU)[1]))


@contextmanager
def _roomy(room: int) -> Generator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = _read("/proc/self/statm").split()
    if not pages:  # no Linux: nothing is known, and the limit would not be heeded
        yield
        return
    wanted = int(pages[0]) * resource.getpagesize() + room
    known = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min([wanted, *known]), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _reset_peak() -> int:
    """Let the peak of memory in use begin anew, and return it in bytes."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    found = _read("/proc/self/status").partition("VmHWM:")[2].split()
    return int(found[0]) * 1024 if found else 0


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _ran_out(error: BaseException | None) -> bool:
    """Return whether an error, or one that it was raised after, says that there was no memory."""
    while error is not None:
        if isinstance(error, MemoryError) or any(words in str(error) for words in NO_MEMORY):
            return True
        error = error.__cause__ or error.__context__
    return False
