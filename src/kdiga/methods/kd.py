"""Knowledge distillation (Hinton, Vinyals, Dean, 2015, arXiv:1503.02531)."""

from __future__ import annotations

from kdiga import losses
from kdiga.methods.base import CheckedOptions, Needs, Passes, coefficient, register
from kdiga.methods.context import StepContext
from kdiga.types import Objective, Term


@register("kd", paper="Hinton et al. 2015, arXiv:1503.02531")
class KD(CheckedOptions):
    """Imitate the teacher's soft labels on clean images.

    ``L = label_weight * CE_s(x) + teacher_weight * temperature**2 * KL(p_T || p_S)``, both softened
    by the temperature. The defaults are the KDIGA study's.

    Args:
        label_weight: Weight of the cross-entropy with the labels.
        teacher_weight: Weight of the imitation.
        temperature: Temperature of the imitation, above 0.
    """

    label_weight: float = 0.5
    teacher_weight: float = coefficient(0.5, 0.25, 4)
    temperature: float = coefficient(1.0, 1, 16)

    @property
    def needs(self) -> Needs:
        """One pass of each network."""
        return Needs(student=Passes(1, 1), teacher=Passes(1), label_loss=self.label_weight > 0)

    def __call__(self, step: StepContext) -> Objective:
        """Return the label and the imitation term."""
        target = step.teacher_logits  # before the student's graph takes memory
        imitation = losses.kl(step.clean.logits, target, self.temperature)
        return Objective(
            (
                Term("label", self.label_weight, step.clean.losses.mean()),
                Term("teacher", self.teacher_weight, imitation.mean()),
            )
        )
