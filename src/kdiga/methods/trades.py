"""TRADES (Zhang et al., 2019, arXiv:1901.08573)."""

from __future__ import annotations

import torch
from torch import Tensor

from kdiga import losses
from kdiga.methods.base import CheckedOptions, Needs, Passes, coefficient, register
from kdiga.methods.context import StepContext
from kdiga.types import Objective, Term


@register("trades", paper="Zhang et al. 2019, arXiv:1901.08573")
class TRADES(CheckedOptions):
    """Trade clean accuracy against the change of the output over the threat ball.

    ``L = CE_s(x) + robust_weight * KL(p_S(x) || p_S(x_adv))``, ``x_adv`` by PGD on that KL from a near
    start. Gradient flows through both sides of the KL.

    Args:
        robust_weight: Weight of the KL, the paper's beta.
        steps: Number of PGD steps.
        step_size: Step length in pixels in [0, 1]; None is eps / 4 (the paper: 0.007 at eps 0.031).
    """

    robust_weight: float = coefficient(6.0, 1, 12)
    steps: int = 10
    step_size: float | None = None

    @property
    def needs(self) -> Needs:
        """One forward for the attack's target, the same at every step; two for the loss."""
        return Needs(student=Passes(self.steps + 3, self.steps + 2), teachers=0, train_forwards=2, label_loss=True)

    def __call__(self, step: StepContext) -> Objective:
        """Attack, then return the label and the robustness term."""
        adv_images = farthest_output(step, steps=self.steps, step_size=self.step_size)
        change = losses.kl(step.at(adv_images).logits, step.clean.logits)
        return Objective(
            (Term("label", 1.0, step.clean.losses.mean()), Term("robust", self.robust_weight, change.mean()))
        )


def farthest_output(step: StepContext, *, steps: int, step_size: float | None) -> Tensor:
    """Return images that maximise ``KL(p_S(x) || p_S(x_adv))``, with the student in its mode for attacks."""
    with step.attacked(), torch.no_grad():
        target = step.predict(step.batch.images)

    def change(images: Tensor) -> Tensor:
        return losses.kl(step.predict(images), target)

    return step.attack(change, steps=steps, step_size=step_size, start="near")
