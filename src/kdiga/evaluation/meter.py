"""How far an attack is, told while it works on a batch: by the forward passes that it makes."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from torch import nn

from kdiga.runs.work_units import OnProgress


class Meter:
    """Progress of one attack in examples.

    Args:
        attack: its name.
        total: examples in all.
        forwards: passes of an example that is never fooled, all stages together.
        progress: called with attack, examples done and examples in all; None tells nobody.
    """

    def __init__(self, attack: str, total: int, forwards: int, progress: OnProgress | None) -> None:
        self.attack, self.total, self.forwards, self.progress = attack, total, forwards, progress
        self._ended = 0  # examples of batches that are done
        self._passed = 0.0  # passes of the present batch's stages that are done, as examples
        self._told = -1
        self._tell(0.0)

    def finished(self, attack: str, done: int, total: int) -> None:
        """Note that so many examples are done with."""
        self._ended, self._passed = done, 0.0
        self._tell(0.0)

    def staged(self, forwards: int, examples: int) -> None:
        """Note that a stage of the present batch has ended."""
        self._passed += examples * forwards / self.forwards
        self._tell(0.0)

    @contextmanager
    def counting(self, model: nn.Module, forwards: int, examples: int) -> Generator[None]:
        """Follow a stage by the model's forward passes.

        Args:
            model: that is attacked.
            forwards: passes of an example that the stage never fools.
            examples: of the batch, those included that already fell.
        """
        if self.progress is None:
            yield
            return
        seen = 0

        def count(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            nonlocal seen
            seen += len(inputs[0])
            # Not quite to its end, which `staged` tells: an attack may make more passes than expected.
            self._tell(min(seen / self.forwards, 0.99 * examples * forwards / self.forwards))

        handle = model.register_forward_pre_hook(count)
        try:
            yield
        finally:
            handle.remove()

    def _tell(self, passed: float) -> None:
        done = min(self.total, int(self._ended + self._passed + passed + 1e-9))
        if self.progress is not None and done != self._told:
            self._told = done
            self.progress(self.attack, done, self.total)
