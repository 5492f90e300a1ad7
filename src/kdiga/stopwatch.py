"""The time of a training step by named sections; a section inside another is not counted twice."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext

Watch = Callable[[str], AbstractContextManager[None]]
"""Names the section that a block belongs to."""


def silent(_section: str) -> AbstractContextManager[None]:
    """Return a context that measures nothing; the default in training."""
    return nullcontext()


class Stopwatch:
    """Adds up wall time by section.

    Args:
        synchronize: Function that waits for the device, called at both ends of every section: a call on a GPU
            only queues work. It costs a few percent of a step there.

    >>> watch = Stopwatch()
    >>> with watch("outer"), watch("inner"):
    ...     pass
    >>> sorted(watch.seconds)
    ['inner', 'outer']
    """

    def __init__(self, synchronize: Callable[[], None] = lambda: None) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._synchronize = synchronize
        self._running: list[str] = []
        self._since = 0.0

    @contextmanager
    def __call__(self, section: str) -> Generator[None]:
        """Add the time of the block to ``section``, and not to the section around it."""
        self._switch()
        self._running.append(section)
        try:
            yield
        finally:
            self._switch()
            self._running.pop()

    def _switch(self) -> None:
        self._synchronize()
        now = time.perf_counter()
        if self._running:
            self.seconds[self._running[-1]] += now - self._since
        self._since = now
