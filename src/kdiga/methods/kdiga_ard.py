"""KDIGA together with adversarially robust distillation, as in the author's public code."""

from __future__ import annotations

from typing import Literal

from kdiga import losses
from kdiga.methods.base import CheckedOptions, Needs, Passes, coefficient, register
from kdiga.methods.context import StepContext
from kdiga.methods.kdiga import RAMP
from kdiga.types import Objective, Term

Place = Literal["clean", "adv"]


@register("kdiga-ard", paper="Shao et al. 2021, public code")
class KDIGAARD(CheckedOptions):
    """Imitate the teacher at adversarial images and match its input gradient.

    ``L = teacher_weight * temperature**2 * KL(p_T(.) || p_S(x_adv)) + label_weight * CE_s(x)
    + gradient_weight * mean_i D(g_s,i , g_t,i)``; ``x_adv`` by PGD on the student's cross-entropy.

    Args:
        label_weight: Weight of the cross-entropy at clean images.
        teacher_weight: Weight of the imitation.
        temperature: Temperature of the imitation, above 0.
        gradient_weight: Weight of the alignment, per example; see :class:`kdiga.methods.kdiga.KDIGA`.
        distance: "l2", "l2-squared", "l1", "cosine", or "dual" to the threat model's norm (l1 for Linf).
        teacher_input: Images of the teacher's soft labels: "adv", as in the author's code, or "clean", as in the
            original ARD; stored signals can serve "clean".
        align_at: Images at which input gradients are matched: "clean", as in the author's code, or "adv".
        ramp: Share of the training, in [0, 1], over which ``gradient_weight`` rises linearly from 0.
        steps: Number of PGD steps, from a uniform start.
        step_size: Step length in pixels in [0, 1]; None is eps / 5, the author's 1.6/255 at 8/255.
    """

    label_weight: float = 0.5
    teacher_weight: float = 0.5
    temperature: float = 1.0
    gradient_weight: float = coefficient(1.0, 0.1, 10)
    distance: str = "l2"
    teacher_input: Place = "adv"
    align_at: Place = "clean"
    ramp: float = RAMP
    steps: int = 10
    step_size: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        losses.check_distance(self.distance)

    @property
    def needs(self) -> Needs:
        """One teacher pass gives soft labels and gradient if both are at the same images."""
        return Needs(
            student=Passes(self.steps + 2, self.steps + 3),
            teacher=Passes(1 if self.teacher_input == self.align_at else 2, 1),
            teacher_gradient=True,
            teacher_queries="adv" in (self.teacher_input, self.align_at),
            student_gradient="differentiable",
            train_forwards=2,
            label_loss=self.label_weight > 0,
        )

    def __call__(self, step: StepContext) -> Objective:
        """Attack the student, then return the label, the imitation and the alignment term."""
        steps, step_size = self.steps, self.step_size or (step.threat.eps / 5 if self.steps > 1 else None)
        answers = step.teacher.logits if self.align_at == "clean" else None
        adv_images = step.attack_loss(steps=steps, step_size=step_size, answers=answers)
        adversarial = step.moved_to(adv_images)
        matched = adversarial if self.align_at == "adv" else step
        if self.teacher_input == self.align_at:
            target = matched.teacher.logits
        else:
            target = step.teacher_at(adv_images if self.teacher_input == "adv" else step.batch.images)
        adv_logits = adversarial.clean.logits if self.align_at == "adv" else step.at(adv_images).logits
        label = step.clean.losses if self.align_at == "clean" else step.at(step.batch.images).losses
        gap = losses.distance_under(self.distance, step.threat.norm)(
            matched.aligned.input_gradient, matched.teacher_gradient
        )
        return Objective(
            (
                Term("label", self.label_weight, label.mean()),
                Term("teacher", self.teacher_weight, losses.kl(adv_logits, target, self.temperature).mean()),
                Term("gradient", self.gradient_weight * step.ramp(self.ramp), gap.mean()),
            )
        )
