"""Counts the network passes of a run."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from kdiga.gradients.student_pass import Forward
from kdiga.model_output import logits_of
from kdiga.model_state import is_counted


class PassCounter:
    """Counts forward and backward passes of student and teachers during training steps.

    A backward pass counts once for every forward pass whose output a gradient reaches. Validation runs outside
    :meth:`counting` and does not count.

    Args:
        student: Student.
        teachers: Teachers, at most two; they count together.
        micro_batches: Number of micro-batches of a batch; their passes together are one pass.
    """

    def __init__(self, student: nn.Module, teachers: list[nn.Module], micro_batches: int = 1) -> None:
        self.models = [("student", student), *(("teacher", teacher) for teacher in teachers)]
        self.of_micro_batches = {
            f"{role}_{kind}": 0 for role in ("student", "teacher") for kind in ("forwards", "backwards")
        }
        self._micro_batches = micro_batches
        self._on = False

    @property
    def totals(self) -> dict[str, int]:
        """The number of passes of whole batches, between two steps."""
        return {name: count // self._micro_batches for name, count in self.of_micro_batches.items()}

    @totals.setter
    def totals(self, totals: Mapping[str, int]) -> None:
        self.of_micro_batches = {name: count * self._micro_batches for name, count in totals.items()}

    @contextmanager
    def counting(self) -> Generator[None]:
        """Count passes inside."""
        handles = [model.register_forward_hook(self._hook(role)) for role, model in self.models]
        self._on = True
        try:
            yield
        finally:
            self._on = False
            for handle in handles:
                handle.remove()

    def counted(self, role: str, forward: Forward | None) -> Forward | None:
        """Return a compiled forward that counts its passes for a role; it does not run the module's hooks."""
        if forward is None:
            return None
        count = self._hook(role)

        def run(images: Tensor) -> Tensor:
            logits = logits_of(forward(images))
            if self._on:
                count(None, images, logits)
            return logits

        return run

    def _hook(self, role: str) -> Any:
        def on_forward(_module: nn.Module | None, _inputs: Any, returned: object) -> None:
            if not is_counted():
                return
            logits = logits_of(returned)
            self.of_micro_batches[f"{role}_forwards"] += 1
            if logits.requires_grad:
                logits.register_hook(on_backward)

        def on_backward(_gradient: Tensor) -> None:
            self.of_micro_batches[f"{role}_backwards"] += 1

        return on_forward
