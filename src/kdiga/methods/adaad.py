"""AdaAD, "Boosting accuracy and robustness of student models via adaptive adversarial distillation" (2023)."""

from __future__ import annotations

from torch import Tensor

from kdiga import losses
from kdiga.methods.base import CheckedOptions, Needs, Passes, coefficient, register
from kdiga.methods.context import StepContext
from kdiga.types import Objective, Term


@register("adaad", paper="Huang et al. 2023, CVPR")
class AdaAD(CheckedOptions):
    """Imitate the teacher where student and teacher differ most.

    ``L = robust_weight * KL(p_T(x_adv) || p_S(x_adv)) + clean_weight * KL(p_T(x) || p_S(x))``, ``x_adv``
    by PGD on the first KL, its gradient through both networks, from a near start.

    Args:
        robust_weight: Weight at adversarial images, the paper's lambda.
        clean_weight: Weight at clean images, ``1 - lambda``; 0 leaves their passes out.
        steps: Number of PGD steps; each queries the teacher.
        step_size: Step length in pixels in [0, 1]; None is eps / 4.
    """

    robust_weight: float = coefficient(1.0, 0.25, 4)
    clean_weight: float = 0.0
    steps: int = 10
    step_size: float | None = None

    @property
    def needs(self) -> Needs:
        """The attack runs both networks forwards and backwards."""
        clean = int(self.clean_weight > 0)
        return Needs(
            student=Passes(self.steps + 1 + clean, self.steps + 1 + clean),
            teacher=Passes(self.steps + 1 + clean, self.steps),
            teacher_queries=True,
            train_forwards=1 + clean,
        )

    def __call__(self, step: StepContext) -> Objective:
        """Attack both networks, then return the imitation there and, with a weight, at the clean images."""
        adv_images = widest_disagreement(step, steps=self.steps, step_size=self.step_size)
        robust = losses.kl(step.at(adv_images).logits, step.teacher_at(adv_images))
        terms = [Term("robust", self.robust_weight, robust.mean())]
        if self.clean_weight:
            clean = losses.kl(step.clean.logits, step.teacher_logits)
            terms.append(Term("clean", self.clean_weight, clean.mean()))
        return Objective(tuple(terms))


def widest_disagreement(step: StepContext, *, steps: int, step_size: float | None) -> Tensor:
    """Return images that maximise ``KL(p_T(x_adv) || p_S(x_adv))``, gradient through both, from a near start."""

    def distance(images: Tensor) -> Tensor:
        return losses.kl(step.predict(images), step.teacher_at(images))

    return step.attack(distance, steps=steps, step_size=step_size, start="near")
