"""Signals that end a run: noted when they come, heeded when the step is done and the state is saved."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)
ONCE = 1.0  # seconds within which a repeated signal is the same one
GO_ON, SAVE = 0, 1  # what can be wished for besides the end of the run, for which the signal's number stands


class Interruption:
    """What a run is to do after the present step.

    Args:
        save_every: minutes between saves; 0 for none in the middle of an epoch.
        clock: seconds.
    """

    def __init__(self, save_every: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock = save_every * 60, clock
        self._signal, self._heard, self._saved = 0, 0.0, clock()

    @contextmanager
    def listening(self) -> Generator[None]:
        """Note SIGTERM and SIGINT inside; a second one, some time later, does at once what it would have done outside.

        Outside the main thread Python hears no signals, and nothing changes.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        former: dict[int, Any] = {one: signal.getsignal(one) for one in SIGNALS}

        def put_back() -> None:
            for number, handler in former.items():
                signal.signal(number, handler)

        def note(number: int, _frame: FrameType | None) -> None:
            # A launcher passes Ctrl-C on to processes that have heard it from the terminal: that is one, not two.
            if self._signal and self._clock() - self._heard > ONCE:
                put_back()
                signal.raise_signal(number)
            elif not self._signal:
                self._signal, self._heard = number, self._clock()

        for one in SIGNALS:
            # A worker leaves Ctrl-C to its parent and ignores it; it goes on doing so.
            if former[one] is not signal.SIG_IGN:
                signal.signal(one, note)
        try:
            yield
        finally:
            put_back()

    def wish(self) -> int:
        """Return :data:`GO_ON`, :data:`SAVE`, or the number of the signal that came."""
        due = self._seconds > 0 and self._clock() - self._saved >= self._seconds
        return self._signal or (SAVE if due else GO_ON)

    def saved(self) -> None:
        """Count the minutes from now on."""
        self._saved = self._clock()


def signal_name(number: int) -> str:
    """Return the name of a signal, and of the key that sends it.

    >>> name_of(15)
    'SIGTERM'
    """
    return "Ctrl-C" if number == signal.SIGINT and os.isatty(0) else signal.Signals(number).name
