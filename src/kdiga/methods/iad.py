"""Introspective adversarial distillation, version I (Zhu et al., 2022, arXiv:2106.04928)."""

from __future__ import annotations

from torch import Tensor

from kdiga import losses
from kdiga.methods.base import CheckedOptions, Needs, Passes, coefficient, register
from kdiga.methods.context import StepContext
from kdiga.types import Objective, Term


@register("iad", paper="Zhu et al. 2022, arXiv:2106.04928")
class IAD(CheckedOptions):
    """Trust the teacher as far as it is right on the student's adversarial images, and the student for the rest.

    ``L = teacher_weight * temperature**2 * KL(p_T(x) || p_S(x_adv)) + label_weight * CE_s(x)
    + self_weight * mean_i (1 - A_i) KL_i(p_S(x) || p_S(x_adv))``, the last from ``begin`` on,
    ``A_i = p_T(y_i | x_adv,i)**trust_exponent``, ``x_adv`` by PGD on the student's cross-entropy. As in the
    authors' code, ``A`` does not multiply the teacher's term.

    Args:
        teacher_weight: Weight of the imitation.
        self_weight: Weight of the self-imitation, the student's clean output being the target.
        label_weight: Weight of the cross-entropy at clean images.
        temperature: Temperature of the imitation, above 0.
        begin: Share of the training, in [0, 1], before which the teacher is fully trusted (paper: epoch 60 of 200).
        trust_exponent: Exponent of the trust, above 0; small values make trust all or nothing.
        detach_self: Whether to detach the self-imitation's target. The authors' code does not.
        steps: Number of PGD steps, from a uniform start.
        step_size: Step length in pixels in [0, 1]; None is eps / 4.
    """

    teacher_weight: float = coefficient(1.0, 0.25, 4)
    self_weight: float = coefficient(1.0, 0.25, 4)
    label_weight: float = 0.0
    temperature: float = 1.0
    begin: float = 0.3
    trust_exponent: float = 0.1
    detach_self: bool = False
    steps: int = 10
    step_size: float | None = None

    @property
    def needs(self) -> Needs:
        """The attack and two more passes; the teacher at clean and at adversarial images."""
        return Needs(
            student=Passes(self.steps + 2, self.steps + 2),
            teacher=Passes(2),
            teacher_queries=True,
            train_forwards=2,
            label_loss=self.label_weight > 0,
        )

    def __call__(self, step: StepContext) -> Objective:
        """Attack the student, then return the imitation, the self-imitation and, with a weight, the label term."""
        target = step.teacher_logits
        adv_images = step.attack_loss(steps=self.steps, step_size=self.step_size, answers=target)
        adv_logits = step.at(adv_images).logits
        imitation = losses.kl(adv_logits, target, self.temperature)
        own = adv_logits.new_zeros(1)
        if step.progress >= self.begin:
            trusted = trust(step.teacher_at(adv_images), step.batch.labels, self.trust_exponent)
            own = distrust(trusted, adv_logits, step.clean.logits, detach=self.detach_self)
        terms = [Term("teacher", self.teacher_weight, imitation.mean()), Term("self", self.self_weight, own.mean())]
        if self.label_weight:
            terms.append(Term("label", self.label_weight, step.clean.losses.mean()))
        return Objective(tuple(terms))


def trust(teacher_logits: Tensor, labels: Tensor, exponent: float) -> Tensor:
    """Return the trust in the teacher for each example: its true-class probability to a power, in [0, 1].

    For an example without a label the class is the teacher's prediction.
    """
    labels = losses.labels_or_predictions(labels, teacher_logits)
    return losses.true_probability(teacher_logits, labels).pow(exponent)


def distrust(
    trusted: Tensor, adv_logits: Tensor, clean_logits: Tensor, *, detach: bool, temperature: float = 1.0
) -> Tensor:
    """Return each example's ``(1 - A) KL(p_S(x) || p_S(x_adv))``."""
    target = clean_logits.detach() if detach else clean_logits
    return (1 - trusted) * losses.kl(adv_logits, target, temperature)
