"""Adversarial training (Madry et al., 2018, arXiv:1706.06083)."""

from __future__ import annotations

from kdiga.methods.base import CheckedOptions, Needs, Passes, register
from kdiga.methods.context import StepContext
from kdiga.types import Objective, Term


@register("pgd-at", paper="Madry et al. 2018, arXiv:1706.06083")
class PGDAT(CheckedOptions):
    """Cross-entropy on the images that PGD on it finds: ``L = CE_s(x_adv)``. It trains teachers.

    Args:
        steps: Number of PGD steps, from a uniform start.
        step_size: Step length in pixels in [0, 1]; None is eps / 4.
    """

    steps: int = 10
    step_size: float | None = None

    @property
    def needs(self) -> Needs:
        """The attack and one more pass."""
        return Needs(student=Passes(self.steps + 1, self.steps + 1), teachers=0, label_loss=True)

    def __call__(self, step: StepContext) -> Objective:
        """Attack the student, then return its loss there."""
        adv_images = step.attack_loss(steps=self.steps, step_size=self.step_size)
        return Objective((Term("adversarial", 1.0, step.at(adv_images).losses.mean()),))
