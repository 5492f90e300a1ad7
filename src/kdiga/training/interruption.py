"""Signals that end a run: recorded when they arrive, and acted on after the step, when the state is saved."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT, *((signal.SIGHUP,) if hasattr(signal, "SIGHUP") else ()))
SAME = 1.0  # seconds in which a repeated signal counts as the same one
CONTINUE, SAVE = -1, 0  # requests, below the numbers of the signals that end a run; SIGHUP is 1


class Interruption:
    """Decides what a run does after the present step.

    Args:
        save_every: Minutes between saves; 0 saves only at the end of an epoch.
        clock: Time in seconds.
    """

    def __init__(self, save_every: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock = save_every * 60, clock
        self._signal, self._received, self._saved = 0, 0.0, clock()

    @contextmanager
    def listening(self) -> Generator[None]:
        """Record SIGTERM, SIGINT and SIGHUP (a closed terminal) inside; a second one has its usual effect.

        Outside the main thread Python receives no signals, and nothing changes.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        former: dict[int, Any] = {one: signal.getsignal(one) for one in SIGNALS}

        def restore() -> None:
            for number, handler in former.items():
                signal.signal(number, handler)

        def record(number: int, _frame: FrameType | None) -> None:
            # A launcher sends Ctrl-C to processes that already received it from the terminal: that is one signal.
            if self._signal and self._clock() - self._received > SAME:
                restore()
                signal.raise_signal(number)
            elif not self._signal:
                self._signal, self._received = number, self._clock()

        for one in SIGNALS:
            # A worker ignores Ctrl-C and leaves it to its parent.
            if former[one] is not signal.SIG_IGN:
                signal.signal(one, record)
        try:
            yield
        finally:
            restore()

    def request(self) -> int:
        """Return :data:`CONTINUE`, :data:`SAVE`, or the number of the received signal."""
        due = self._seconds > 0 and self._clock() - self._saved >= self._seconds
        return self._signal or (SAVE if due else CONTINUE)

    def saved(self) -> None:
        """Start the time to the next save."""
        self._saved = self._clock()


def signal_name(number: int) -> str:
    """Return the name of a signal, or of the key that sends it.

    >>> signal_name(15)
    'SIGTERM'
    """
    return "Ctrl-C" if number == signal.SIGINT and os.isatty(0) else signal.Signals(number).name
