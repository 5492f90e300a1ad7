"""Processes that others started: a worker lives and ends as its parent wishes; a launcher's are all alike."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import wait

from kdiga.errors import InputError


def follow_parent() -> None:
    """Leave Ctrl-C to the parent, and end when it does, however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # A parent that is killed cannot say so, and its workers would go on unseen, holding the locks.
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def launched() -> bool:
    """Return whether ``torchrun`` or ``accelerate launch`` started several processes, of which this is one."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_main_process() -> bool:
    """Return whether this process, of those that were launched, is the one that writes and prints."""
    return not launched() or os.environ.get("RANK", "0") == "0"


def check_started_once(what: str, instead: str) -> None:
    """Check that no launcher started several processes of what divides its work by itself.

    Args:
        what: was started.
        instead: what to do.

    Raises:
        InputError: if one did.
    """
    if launched():
        count = os.environ["WORLD_SIZE"]
        raise InputError(f"{what} was started in {count} processes by a launcher; start it once, {instead}.")
