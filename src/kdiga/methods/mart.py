"""MART, "Improving adversarial robustness requires revisiting misclassified examples" (2020)."""

from __future__ import annotations

import torch
from torch import Tensor

from kdiga import losses
from kdiga.methods.base import CheckedOptions, Needs, Passes, coefficient, register
from kdiga.methods.class_means import classes_of
from kdiga.methods.context import StepContext
from kdiga.types import Objective, Term


@register("mart", paper="Wang et al. 2020, ICLR")
class MART(CheckedOptions):
    """Train on adversarial images, and most on the examples that the student gets wrong.

    ``L = CE_s(x_adv) + mean_i -log(1 - max_{k != y_i} p_S(k | x_adv,i))
    + robust_weight * mean_i (1 - p_S(y_i | x_i)) KL_i(p_S(x) || p_S(x_adv))``, ``x_adv`` by PGD on the student's
    cross-entropy from a near start. Gradient flows through all factors, as in the authors' code; that adds 1e-4 inside
    the second logarithm.

    Args:
        robust_weight: Weight of the KL, the paper's lambda.
        steps: Number of PGD steps.
        step_size: Step length in pixels in [0, 1]; None is eps / 4 (the paper: 0.007 at eps 0.031).
    """

    robust_weight: float = coefficient(6.0, 1, 12)
    steps: int = 10
    step_size: float | None = None

    @property
    def needs(self) -> Needs:
        """The attack and two more passes."""
        return Needs(student=Passes(self.steps + 2, self.steps + 2), teachers=0, train_forwards=2, label_loss=True)

    def __call__(self, step: StepContext) -> Objective:
        """Attack, then return the label, the margin and the robustness term."""
        adv = step.at(step.attack_loss(steps=self.steps, step_size=self.step_size, start="near"))
        labels = step.batch.labels
        classes = losses.labels_or_predictions(labels, step.clean.logits)
        doubt = 1 - losses.true_probability(step.clean.logits, classes)
        change = losses.kl(adv.logits, step.clean.logits)
        return Objective(
            (
                Term("adversarial", 1.0, adv.losses.mean()),
                Term("margin", 1.0, _margin_losses(adv.logits, labels).mean()),
                Term("robust", self.robust_weight, (doubt * change).mean()),
            )
        )


def _margin_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Return each example's ``-log(1 - p_k)`` of the most probable wrong class ``k``; 0 without a label."""
    logits, classes = losses.full_precision(logits), classes_of(labels)
    rows = classes.clamp_min(0)[:, None]
    wrong = logits.detach().scatter(1, rows, -torch.inf).argmax(1, keepdim=True)
    rest = logits.scatter(1, wrong, -torch.inf).logsumexp(1)
    return (logits.logsumexp(1) - rest) * (classes >= 0)
