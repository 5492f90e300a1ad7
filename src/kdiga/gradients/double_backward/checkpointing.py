"""Activation checkpointing under a function mode: what is computed again is computed under the same mode.

A checkpoint runs part of the forward pass again within the backward pass, when the mode has ended. It would then save
other tensors than the first time, and PyTorch raises CheckpointError. A reentrant checkpoint cannot be
differentiated by ``torch.autograd.grad`` at all; inside the mode it runs as one that is not reentrant.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from torch.utils import checkpoint as checkpointing

from kdiga.gradients.double_backward.shared_context import SharedContext

_START = ("_checkpoint_without_reentrant_generator_impl", "_checkpoint_without_reentrant_generator")
"""Names of the function that starts a checkpoint, in PyTorch 2.14 and before: (function, ..., context_fn, ...)."""

Context = Callable[[], AbstractContextManager[Any]]


_LOCAL = threading.local()


def _contexts() -> tuple[Context, ...]:
    """Return the contexts of this thread, the outer ones first."""
    return getattr(_LOCAL, "contexts", ())


@contextmanager
def recomputing_under(context: Context) -> Generator[None]:
    """Let checkpoints of the forward pass inside enter a context when they compute it again.

    Checkpoints in other threads do not change.

    Args:
        context: Function that returns the context; it returns one without effect in a thread to which it does not
            apply.
    """
    before = _contexts()
    with _PATCHED:
        _LOCAL.contexts = (*before, context)
        try:
            yield
        finally:
            _LOCAL.contexts = before


@contextmanager
def _patched() -> Generator[None]:
    """Patch PyTorch's checkpoints; in a thread without contexts they stay as they are."""
    name = next(name for name in _START if hasattr(checkpointing, name))
    start, reentrant = getattr(checkpointing, name), checkpointing.CheckpointFunction

    def started(*args: Any, **options: Any) -> Any:
        contexts = _contexts()
        if not contexts:
            return start(*args, **options)
        if "context_fn" in options:
            return start(*args, **{**options, "context_fn": _joined(options["context_fn"], contexts)})
        return start(*args[:2], _joined(args[2], contexts), *args[3:], **options)

    class NotReentrant:
        @staticmethod
        def apply(function: Any, preserve: bool, *args: Any) -> Any:
            if not _contexts():
                return reentrant.apply(function, preserve, *args)
            return checkpointing.checkpoint(function, *args, use_reentrant=False, preserve_rng_state=preserve)

    with (
        patch.object(checkpointing, name, started),
        patch.object(checkpointing, "CheckpointFunction", NotReentrant),
    ):
        yield


_PATCHED = SharedContext(_patched)


def _joined(context_fn: Any, contexts: tuple[Context, ...]) -> Callable[[], tuple[Any, _Joined]]:
    def both() -> tuple[Any, _Joined]:
        first, again = context_fn()
        return first, _Joined(again, contexts)

    return both


class _Joined:
    """Several contexts as one that can be entered again: a checkpoint computes again in each backward pass."""

    def __init__(self, first: AbstractContextManager[Any], others: tuple[Context, ...]) -> None:
        self._first, self._others = first, others
        self._stack = ExitStack()

    def __enter__(self) -> None:
        self._stack.enter_context(self._first)
        for other in self._others:
            self._stack.enter_context(other())

    def __exit__(self, *error: Any) -> None:
        self._stack.close()
