"""Indirect gradient distillation (Lee et al., 2023, arXiv:2312.03286) on top of AdaAD."""

from __future__ import annotations

from torch import Tensor

from kdiga import losses
from kdiga.methods.adaad import widest_disagreement
from kdiga.methods.base import CheckedOptions, Needs, Passes, coefficient, register
from kdiga.methods.context import StepContext
from kdiga.types import Objective, Term


@register("igdm", paper="Lee et al. 2023, arXiv:2312.03286")
class IGDM(CheckedOptions):
    """Match the change of the logits along the attack's direction, in place of their input gradients.

    With ``d = x_adv - x`` from ``adaad``'s attack, ``L = robust_weight * KL(p_T(x+d) || p_S(x+d))
    + difference_weight * progress * KL(softmax(T(x+d) - T(x-d)) || softmax(S(x+d) - S(x-d)))``: for
    locally linear networks ``f(x+d) - f(x-d)`` is twice the logit Jacobian times ``d``. The second weight
    rises linearly over the whole training.

    Args:
        robust_weight: Weight of the imitation at adversarial images.
        difference_weight: Weight of the matching term, the paper's alpha; 1 on CIFAR-10, 10 and more for many classes.
        clip_mirror: Whether to clip ``x - d`` to [0, 1]. The paper does not.
        steps: Number of PGD steps; each queries the teacher.
        step_size: Step length in pixels in [0, 1]; None is eps / 4.
    """

    robust_weight: float = coefficient(1.0, 0.25, 4)
    difference_weight: float = coefficient(1.0, 0.1, 20)
    clip_mirror: bool = False
    steps: int = 10
    step_size: float | None = None

    @property
    def needs(self) -> Needs:
        """AdaAD and one pass of each network at the mirrored image."""
        return Needs(
            student=Passes(self.steps + 2, self.steps + 2),
            teacher=Passes(self.steps + 2, self.steps),
            teacher_queries=True,
            train_forwards=2,
        )

    def __call__(self, step: StepContext) -> Objective:
        """Attack both networks, then return the imitation and the matching term."""
        adv_images = widest_disagreement(step, steps=self.steps, step_size=self.step_size)
        adv_logits, target = step.at(adv_images).logits, step.teacher_at(adv_images)
        difference = self._term(step, adv_images)
        return Objective((Term("robust", self.robust_weight, losses.kl(adv_logits, target).mean()), difference))

    @property
    def added_needs(self) -> Needs:
        """The student and the teacher at the two images, the first of which the other method may have seen."""
        return Needs(student=Passes(2, 2), teacher=Passes(2), teacher_queries=True, train_forwards=2)

    def added_term(self, step: StepContext) -> Term:
        """Return the matching term, at the images of the other method's attack."""
        return self._term(step, step.adv_images)

    def _term(self, step: StepContext, adv_images: Tensor) -> Term:
        adv_logits, target = step.at(adv_images).logits, step.teacher_at(adv_images)
        mirrored = mirror(step, adv_images, clip=self.clip_mirror)
        difference = losses.kl(adv_logits - step.at(mirrored).logits, target - step.teacher_at(mirrored))
        return Term("difference", self.difference_weight * step.progress, difference.mean())


def mirror(step: StepContext, adv_images: Tensor, *, clip: bool) -> Tensor:
    """Return ``x - d`` for ``x + d``."""
    mirrored = 2 * step.batch.images - adv_images
    return mirrored.clamp(0, 1) if clip else mirrored
