"""Learnable boundary guided adversarial training (Cui et al., 2021, arXiv:2011.11164)."""

from __future__ import annotations

from kdiga import losses
from kdiga.methods.base import CheckedOptions, Needs, Passes, coefficient, register
from kdiga.methods.context import StepContext
from kdiga.methods.trades import farthest_output
from kdiga.types import Objective, Term


@register("lbgat", paper="Cui et al. 2021, arXiv:2011.11164")
class LBGAT(CheckedOptions):
    """Pull the student's adversarial logits towards the clean logits of a natural guide, trained at the same time.

    ``L = guide_weight * MSE(S(x_adv), T(x)) + CE(T(x), y) + robust_weight * KL(p_S(x) || p_S(x_adv))``,
    the MSE averaged over the classes, ``x_adv`` as in TRADES. The guide ``T`` is the run's teacher: it
    usually starts from fresh weights, and the same optimizer trains it. The MSE trains both sides.

    Args:
        guide_weight: Weight of the MSE.
        robust_weight: Weight of the KL, the paper's beta, 0 or 6; 0 leaves the student's clean pass out.
        steps: Number of PGD steps, from a near start.
        step_size: Step length in pixels in [0, 1]; None is eps / 4.
    """

    guide_weight: float = coefficient(1.0, 0.1, 10)
    robust_weight: float = 0.0
    steps: int = 10
    step_size: float | None = None

    @property
    def needs(self) -> Needs:
        """TRADES' attack, one or two more passes, and one trained pass of the guide."""
        clean = int(self.robust_weight > 0)
        return Needs(
            student=Passes(self.steps + 2 + clean, self.steps + 1 + clean),
            teacher=Passes(1, 1),
            trains_teacher=True,
            train_forwards=1 + clean,
            label_loss=True,
        )

    def __call__(self, step: StepContext) -> Objective:
        """Attack the student, then return the MSE, the guide's loss and, with a weight, TRADES' term."""
        adv_images = farthest_output(step, steps=self.steps, step_size=self.step_size)
        smoothing = step.settings.label_smoothing
        adv_logits, guide_logits = step.at(adv_images).logits, step.guide(step.batch.images)
        terms = [
            Term("guide", self.guide_weight, (adv_logits - guide_logits).square().mean()),
            Term("guide-label", 1.0, losses.cross_entropy(guide_logits, step.batch.labels, smoothing).mean()),
        ]
        if self.robust_weight:
            terms.append(Term("robust", self.robust_weight, losses.kl(adv_logits, step.clean.logits).mean()))
        return Objective(tuple(terms))
