"""ABSLD, "Improving adversarial robust fairness via anti-bias soft label distillation" (2024)."""

from __future__ import annotations

import torch
from torch import Tensor

from kdiga import losses
from kdiga.methods.base import CheckedOptions, Needs, Passes, coefficient, register
from kdiga.methods.class_means import add_to_means, means_if_due, of_class
from kdiga.methods.context import StepContext
from kdiga.types import Objective, Term

LOWEST, HIGHEST = 0.5, 5.0  # temperatures


@register("absld", paper="Zhao et al. 2024, NeurIPS")
class ABSLD(CheckedOptions):
    """RSLAD with sharper soft labels for classes that are learnt badly and smoother ones for the others.

    ``L = robust_weight * KL(softmax(T(x) / a_y) || p_S(x_adv)) + clean_weight * KL(softmax(T(x) / b_y) || p_S(x))``,
    ``x_adv`` by PGD on the first KL from a near start. ``a`` and ``b`` are temperatures by class, 1 at first. At an
    update ``a_c`` moves by ``-rate * (R_c - mean R) / max |R - mean R|``, within [0.5, 5], ``R_c`` the mean
    cross-entropy of class ``c`` at ``x_adv`` since the last update; ``b`` likewise at ``x``.

    The paper updates after each of 300 epochs and lowers the rate with the learning rate; here it is constant. In the
    authors' code both temperatures divide the same tensor, so that each loss has their product; here they are apart, as
    in the paper.

    Args:
        robust_weight: Weight of the imitation at adversarial images.
        clean_weight: Weight of the imitation at clean images.
        rate: Change of the temperature of the worst class at an update, at least 0.
        updates: Number of updates in the whole training, evenly spaced.
        steps: Number of PGD steps.
        step_size: Step length in pixels in [0, 1]; None is eps / 4.
    """

    robust_weight: float = coefficient(5 / 6, 0.2, 4)
    clean_weight: float = 1 / 6
    rate: float = 0.1
    updates: int = 300
    steps: int = 10
    step_size: float | None = None

    @property
    def needs(self) -> Needs:
        """As RSLAD."""
        return Needs(
            student=Passes(self.steps + 2, self.steps + 2),
            teacher=Passes(1),
            train_forwards=2,
        )

    def __call__(self, step: StepContext) -> Objective:
        """Attack the student, then return the imitation at adversarial and at clean images."""
        labels, logits, means = step.batch.labels, step.teacher_logits, means_if_due(step, self.updates)
        temperatures = dict[str, Tensor]()
        for place in ("robust", "clean"):
            now = step.memory.get(place, logits.new_ones(logits.shape[1], dtype=torch.float64))
            if means is not None:
                now = step.memory[place] = self._moved(now.to(means[place]), means[place])
            temperatures[place] = of_class(now.to(logits), labels)[:, None]
        robust_target, clean_target = (logits / one for one in temperatures.values())

        def distance(images: Tensor) -> Tensor:
            return losses.kl(step.predict(images), robust_target)

        adv = step.at(step.attack(distance, steps=self.steps, step_size=self.step_size, start="near"))
        add_to_means(step, logits.shape[1], {"robust": adv.hard_losses, "clean": step.clean.hard_losses})
        return Objective(
            (
                Term("robust", self.robust_weight, losses.kl(adv.logits, robust_target).mean()),
                Term("clean", self.clean_weight, losses.kl(step.clean.logits, clean_target).mean()),
            )
        )

    def _moved(self, temperatures: Tensor, mean_losses: Tensor) -> Tensor:
        gap = mean_losses - mean_losses.mean()
        return (temperatures - self.rate * gap / gap.abs().max().clamp_min(1e-12)).clamp(LOWEST, HIGHEST)
