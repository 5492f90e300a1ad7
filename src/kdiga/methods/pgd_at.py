"""Adversarial training (Madry et al., 2018, arXiv:1706.06083)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kdiga.losses import cross_entropy
from kdiga.methods.registry import register
from kdiga.step import Step
from kdiga.types import Objective, Term


@register("pgd-at", paper="Madry et al. 2018, arXiv:1706.06083", teacher=False)
@dataclass(frozen=True)
class PGDAT:
    """Cross-entropy on the images that PGD on it finds: ``L = CE_s(x_adv)``. For training teachers.

    Args:
        steps: PGD steps, from a uniform start.
        step_size: in pixels in [0, 1]; None is eps / 4.
    """

    steps: int = 10
    step_size: float | None = None

    def __call__(self, step: Step) -> Objective:
        """Attack the student, then return its loss there."""

        def objective(images: Tensor) -> Tensor:
            return cross_entropy(step.student(images), step.batch.labels)

        adv_images = step.attack(objective, steps=self.steps, step_size=self.step_size)
        return Objective((Term("adversarial", 1.0, step.at(adv_images).losses.mean()),))
