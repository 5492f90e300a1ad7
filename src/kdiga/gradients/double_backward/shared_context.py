"""A process-wide setting that several threads need for a while."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any


class SharedContext:
    """Enters a context with the first thread that needs it, and leaves it with the last.

    If each thread saved and restored the setting by itself, the last one would restore what another had set.

    Args:
        context: Function that returns the context.
    """

    def __init__(self, context: Callable[[], AbstractContextManager[Any]]) -> None:
        self._context, self._stack = context, ExitStack()
        self._lock, self._inside = threading.Lock(), 0

    def __enter__(self) -> None:
        """Enter the context, unless it is entered already."""
        with self._lock:
            if not self._inside:
                self._stack.enter_context(self._context())
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        """Leave the context if nothing else is inside."""
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._stack.close()
