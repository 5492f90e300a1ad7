"""Activation checkpointing under a function mode: what is computed again is computed under the same mode.

A checkpoint runs part of the forward pass again within the backward pass, when the mode has ended. It would then save
other tensors than the first time, and PyTorch raises CheckpointError. A reentrant checkpoint cannot be
differentiated by ``torch.autograd.grad`` at all; inside the mode it runs as one that is not reentrant.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from torch.utils import checkpoint as checkpointing

_START = ("_checkpoint_without_reentrant_generator_impl", "_checkpoint_without_reentrant_generator")
"""Names of the function that starts a checkpoint, in PyTorch 2.14 and before: (function, ..., context_fn, ...)."""

Context = Callable[[], AbstractContextManager[Any]]


@contextmanager
def recomputing_under(context: Context) -> Generator[None]:
    """Let checkpoints of the forward pass inside enter a context when they compute it again.

    Args:
        context: Function that returns the context; it returns one without effect in a thread to which it does not
            apply.
    """
    name = next(name for name in _START if hasattr(checkpointing, name))
    start = getattr(checkpointing, name)

    def started(function: Any, arguments: Any, third: Any = None, *rest: Any, **options: Any) -> Any:
        context_fn = options.get("context_fn", third)

        def both() -> tuple[AbstractContextManager[Any], _Joined]:
            first, again = context_fn()
            return first, _Joined(again, context)

        if "context_fn" in options:
            return start(function, arguments, third, *rest, **{**options, "context_fn": both})
        return start(function, arguments, both, *rest, **options)

    class NotReentrant:
        @staticmethod
        def apply(function: Any, preserve: bool, *args: Any) -> Any:
            return checkpointing.checkpoint(function, *args, use_reentrant=False, preserve_rng_state=preserve)

    with (
        patch.object(checkpointing, name, started),
        patch.object(checkpointing, "CheckpointFunction", NotReentrant),
    ):
        yield


class _Joined:
    """Two contexts as one that can be entered again: a checkpoint computes again in each backward pass."""

    def __init__(self, first: AbstractContextManager[Any], second: Context) -> None:
        self._first, self._second = first, second
        self._stack = ExitStack()

    def __enter__(self) -> None:
        self._stack.enter_context(self._first)
        self._stack.enter_context(self._second())

    def __exit__(self, *error: Any) -> None:
        self._stack.close()
