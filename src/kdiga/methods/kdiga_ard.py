"""KDIGA together with adversarially robust distillation, as in the author's public code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from kdiga import losses
from kdiga.errors import unknown
from kdiga.methods.base import CheckedOptions, Needs, Passes, coefficient, register
from kdiga.methods.context import StepContext
from kdiga.methods.kdiga import RAMP
from kdiga.types import Objective, Term

Place = Literal["clean", "adv"]


@register("kdiga-ard", paper="Shao et al. 2021, public code")
@dataclass(frozen=True)
class KDIGAARD(CheckedOptions):
    """Imitate the teacher at adversarial images and match its input gradient.

    ``L = teacher_weight * temperature**2 * KL(p_T(.) || p_S(x_adv)) + label_weight * CE_s(x)
    + gradient_weight * mean_i D(g_s,i , g_t,i)``; ``x_adv`` by PGD on the student's cross-entropy.

    Args:
        label_weight: of the hard-label cross-entropy at clean images.
        teacher_weight: of the imitation.
        temperature: above 0.
        gradient_weight: per example; see :class:`kdiga.methods.kdiga.KDIGA`.
        distance: "l2", "l2-squared", "l1", "cosine", or "dual" to the threat model's norm (l1 for Linf).
        teacher_input: what the teacher is shown for its soft labels: "adv", as in the author's code, or
            "clean", as in the original ARD, which stored signals can serve.
        align_at: where input gradients are matched: "clean", as in the author's code, or "adv".
        ramp: share of the training over which ``gradient_weight`` rises linearly from 0.
        steps: PGD steps from a uniform start.
        step_size: in pixels in [0, 1]; None is eps / 5, the author's 1.6/255 at 8/255.
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
        for name in ("teacher_input", "align_at"):
            if getattr(self, name) not in get_args(Place):
                raise unknown(name, getattr(self, name), get_args(Place))

    @property
    def needs(self) -> Needs:
        """Where soft labels and gradient are wanted at the same images, one teacher pass serves both."""
        return Needs(
            student=Passes(self.steps + 2, self.steps + 3),
            teacher=Passes(1 if self.teacher_input == self.align_at else 2, 1),
            teacher_gradient=True,
            teacher_queries="adv" in (self.teacher_input, self.align_at),
            student_gradient="differentiable",
            train_forwards=2,
        )

    def __call__(self, step: StepContext) -> Objective:
        """Attack the student, then return the label, the imitation and the alignment term."""
        steps, step_size = self.steps, self.step_size or (step.threat.eps / 5 if self.steps > 1 else None)
        adv_images = step.attack_loss(steps=steps, step_size=step_size)
        there = step.moved_to(adv_images)
        place = there if self.align_at == "adv" else step
        if self.teacher_input == self.align_at:
            target = place.teacher.logits
        else:
            target = step.teacher_at(adv_images if self.teacher_input == "adv" else step.batch.images)
        adv_logits = there.clean.logits if self.align_at == "adv" else step.at(adv_images).logits
        label = step.clean.losses if self.align_at == "clean" else step.at(step.batch.images).losses
        gap = losses.distance_under(self.distance, step.threat.norm)(
            place.aligned.input_gradient, place.teacher_gradient
        )
        return Objective(
            (
                Term("label", self.label_weight, label.mean()),
                Term("teacher", self.teacher_weight, losses.kl(adv_logits, target, self.temperature).mean()),
                Term("gradient", self.gradient_weight * step.ramp(self.ramp), gap.mean()),
            )
        )
