"""Plain training on the labels."""

from __future__ import annotations

from kdiga.methods.base import Needs, Passes, register
from kdiga.methods.context import StepContext
from kdiga.types import Objective, Term


@register("ce", paper="cross-entropy on clean images")
class CE:
    """Cross-entropy on clean images: ``L = CE_s(x)``. The baseline of every robust method."""

    @property
    def needs(self) -> Needs:
        """One pass, no teacher."""
        return Needs(student=Passes(1, 1), teachers=0, label_loss=True)

    def __call__(self, step: StepContext) -> Objective:
        """Return the one term."""
        return Objective((Term("label", 1.0, step.clean.losses.mean()),))
