"""Fair-ARD, "Revisiting adversarial robustness distillation from the perspective of robust fairness" (2023)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from kdiga import losses
from kdiga.methods.base import CheckedOptions, Needs, Passes, register
from kdiga.methods.class_means import add_to_means, classes_of, means_if_due, of_class
from kdiga.methods.context import StepContext
from kdiga.types import Objective, Term

LOWEST, HIGHEST = 5 / 6, 5 / 2  # weights of a class
Base = Literal["ard", "rslad"]


@register("fair-ard", paper="Yue et al. 2023, NeurIPS")
class FairARD(CheckedOptions):
    """ARD or RSLAD with larger weights for classes that attacks fool soon.

    ``L = mean_i w_y KL_i`` with the KL terms of the base. ``w_c = K k_c**-exponent / sum_j k_j**-exponent``, within
    [5/6, 5/2], ``K`` the number of classes and ``k_c`` the mean number of attack steps at which the student still
    classified an example of class ``c`` correctly, since the last update; 1 before the first update.

    The paper updates the weights after each of 300 epochs (RSLAD) or 200 (ARD).

    Args:
        base: "ard" (``KL(p_T(x) || p_S(x_adv))`` at a temperature, PGD on the student's cross-entropy) or "rslad"
            (``5/6 KL(p_T(x) || p_S(x_adv)) + 1/6 KL(p_T(x) || p_S(x))``, PGD on the first KL).
        temperature: Temperature of "ard", above 0; "rslad" has none.
        exponent: Exponent of the weights, the paper's beta; 0 gives all classes the same weight.
        updates: Number of updates in the whole training, evenly spaced.
        steps: Number of PGD steps.
        step_size: Step length in pixels in [0, 1]; None is eps / 4.
    """

    base: Base = "ard"
    temperature: float = 30.0
    exponent: float = 2.0
    updates: int = 200
    steps: int = 10
    step_size: float | None = None

    @property
    def needs(self) -> Needs:
        """The attack and one more pass, with RSLAD two; one teacher pass."""
        clean = int(self.base == "rslad")
        return Needs(
            student=Passes(self.steps + 1 + clean, self.steps + 1 + clean),
            teacher=Passes(1),
            train_forwards=1 + clean,
        )

    def __call__(self, step: StepContext) -> Objective:
        """Attack the student, then return the weighted imitation."""
        means, target = means_if_due(step, self.updates), step.teacher_logits
        if means is not None:
            step.memory["weights"] = self._weights(means["survived"])
        weights = step.memory.get("weights", target.new_ones(target.shape[1]))
        weight = of_class(weights.to(target), step.batch.labels)
        adv_logits = step.at(self._attack(step, target)).logits
        if self.base == "ard":
            robust = losses.kl(adv_logits, target, self.temperature)
            return Objective((Term("robust", 1.0, (weight * robust).mean()),))
        robust, clean = losses.kl(adv_logits, target), losses.kl(step.clean.logits, target)
        return Objective(
            (Term("robust", 5 / 6, (weight * robust).mean()), Term("clean", 1 / 6, (weight * clean).mean()))
        )

    def _attack(self, step: StepContext, target: Tensor) -> Tensor:
        """Return the images of the base's attack, and add the steps that each example survived to the memory."""
        labels, survived = step.batch.labels, torch.zeros(len(target), device=target.device)
        attacked = losses.labels_or_predictions(labels, target)

        def objective(images: Tensor) -> Tensor:
            logits = step.predict(images)
            survived.add_(logits.detach().argmax(1) == classes_of(labels))
            return losses.cross_entropy(logits, attacked) if self.base == "ard" else losses.kl(logits, target)

        start = "uniform" if self.base == "ard" else "near"
        adv_images = step.attack(objective, steps=self.steps, step_size=self.step_size, start=start)
        add_to_means(step, target.shape[1], {"survived": survived})
        return adv_images

    def _weights(self, survived: Tensor) -> Tensor:
        inverse = survived.clamp_min(1e-5) ** -self.exponent
        return (len(inverse) * inverse / inverse.sum()).clamp(LOWEST, HIGHEST)
