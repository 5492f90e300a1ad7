"""Robust soft label adversarial distillation (Zi et al., 2021, arXiv:2108.07969)."""

from __future__ import annotations

from kdiga import losses
from kdiga.methods.ard import farthest_from_teacher
from kdiga.methods.base import CheckedOptions, Needs, Passes, coefficient, register
from kdiga.methods.context import StepContext
from kdiga.types import Objective, Term


@register("rslad", paper="Zi et al. 2021, arXiv:2108.07969")
class RSLAD(CheckedOptions):
    """Use the teacher's clean soft labels in place of hard labels, in the attack and in the loss.

    ``L = robust_weight * KL(p_T(x) || p_S(x_adv)) + clean_weight * KL(p_T(x) || p_S(x))``, ``x_adv`` by
    PGD on the first KL from a near start.

    Args:
        robust_weight: Weight of the imitation at adversarial images.
        clean_weight: Weight of the imitation at clean images.
        steps: Number of PGD steps.
        step_size: Step length in pixels in [0, 1]; None is eps / 4.
    """

    robust_weight: float = coefficient(5 / 6, 0.2, 4)
    clean_weight: float = 1 / 6
    steps: int = 10
    step_size: float | None = None

    @property
    def needs(self) -> Needs:
        """The attack and two more passes; one teacher pass."""
        return Needs(student=Passes(self.steps + 2, self.steps + 2), teacher=Passes(1), train_forwards=2)

    def __call__(self, step: StepContext) -> Objective:
        """Attack the student, then return the imitation at adversarial and at clean images."""
        adv_images = farthest_from_teacher(step, steps=self.steps, step_size=self.step_size)
        target = step.teacher_logits
        return Objective(
            (
                Term("robust", self.robust_weight, losses.kl(step.at(adv_images).logits, target).mean()),
                Term("clean", self.clean_weight, losses.kl(step.clean.logits, target).mean()),
            )
        )
