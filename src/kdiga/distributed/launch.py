"""Workers that end with their parent, processes of a launcher, and the number of threads."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager

from kdiga.errors import InputError


def follow_parent() -> None:
    """Ignore Ctrl-C, which the parent handles, and end when the parent ends for any reason."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    import multiprocessing  # here, so that --help does not wait for it
    from multiprocessing.connection import wait

    # The workers of a killed parent would continue unseen, with their locks.
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def launched() -> bool:
    """Return whether ``torchrun`` or ``accelerate launch`` started several processes, of which this is one."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_main_process() -> bool:
    """Return whether this process is the one that writes and prints."""
    return not launched() or os.environ.get("RANK", "0") == "0"


def check_started_once(what: str, instead: str) -> None:
    """Check that no launcher started several processes of a task that divides its work itself.

    Raises:
        InputError: If a launcher did.
    """
    if launched():
        count = os.environ["WORLD_SIZE"]
        raise InputError(f"{what} was started in {count} processes by a launcher; start it once, {instead}.")


@contextmanager
def one_thread() -> Generator[None]:
    """Compute with one thread inside, as each of several workers does."""
    import torch  # here, so that the help of a command does not wait for it

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
