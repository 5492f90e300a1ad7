"""Introspective adversarial distillation, version II: an adversarially and a naturally trained teacher."""

from __future__ import annotations

from kdiga import losses
from kdiga.methods.base import CheckedOptions, Needs, Passes, coefficient, register
from kdiga.methods.context import StepContext
from kdiga.methods.iad import distrust, trust
from kdiga.types import Objective, Term, added_option


@register("iad-ii", paper="Zhu et al. 2022, arXiv:2106.04928")
class IADII(CheckedOptions):
    """Imitate two teachers and the student's clean output, all at the adversarial images.

    ``L = label_weight * CE(S(x_adv), y)
    + teacher_weight * temperature**2 * mean_i [A_i KL_i(T(x_adv) || S(x_adv)) + (1 - A_i) KL_i(S(x) || S(x_adv))]
    + natural_weight * temperature**2 * KL(T_nat(x_adv) || S(x_adv))``, ``A`` as in ``iad`` and 1 before
    ``begin``, ``x_adv`` by PGD on the student's cross-entropy. ``teacher`` is the robust teacher and
    ``second_teacher`` the natural teacher.

    Args:
        label_weight: Weight of the cross-entropy at adversarial images.
        teacher_weight: Weight of the imitation of the robust teacher and of the student itself.
        natural_weight: Weight of the imitation of the natural teacher.
        temperature: Temperature of the imitation, above 0.
        begin: Share of the training, in [0, 1], before which the robust teacher is fully trusted (paper: epoch 40
            of 200).
        trust_exponent: Exponent of the trust, above 0.
        detach_self: Whether to detach the self-imitation's target. The authors' code does not.
        steps: Number of PGD steps, from a uniform start.
        step_size: Step length in pixels in [0, 1]; None is eps / 4.
        self_temperature: Temperature of both sides of the self-imitation, above 0; None is ``temperature``. The
            authors' code has 1; the factor ``temperature**2`` stays.
    """

    label_weight: float = 0.25
    teacher_weight: float = coefficient(0.5, 0.125, 2)
    natural_weight: float = coefficient(0.25, 0.06, 1)
    temperature: float = 1.0
    begin: float = 0.2
    trust_exponent: float = 0.1
    detach_self: bool = False
    steps: int = 10
    step_size: float | None = None
    self_temperature: float | None = added_option(None)

    @property
    def needs(self) -> Needs:
        """The attack and two more passes; each teacher once, at adversarial images."""
        return Needs(
            student=Passes(self.steps + 2, self.steps + 2),
            teacher=Passes(2),
            teachers=2,
            teacher_queries=True,
            train_forwards=2,
            label_loss=self.label_weight > 0,
        )

    def __call__(self, step: StepContext) -> Objective:
        """Attack the student, then return the label, the robust and the natural term."""
        adv_images = step.attack_loss(steps=self.steps, step_size=self.step_size)
        adv = step.at(adv_images)
        robust_logits, natural_logits = step.teacher_at(adv_images), step.second_teacher_at(adv_images)
        imitation = losses.kl(adv.logits, robust_logits, self.temperature)
        if step.progress >= self.begin:
            trusted = trust(robust_logits, step.batch.labels, self.trust_exponent)
            softness = self.self_temperature or self.temperature
            own = distrust(trusted, adv.logits, step.clean.logits, detach=self.detach_self, temperature=softness)
            imitation = trusted * imitation + own * (self.temperature / softness) ** 2
        natural = losses.kl(adv.logits, natural_logits, self.temperature)
        return Objective(
            (
                Term("label", self.label_weight, adv.losses.mean()),
                Term("teacher", self.teacher_weight, imitation.mean()),
                Term("natural", self.natural_weight, natural.mean()),
            )
        )
