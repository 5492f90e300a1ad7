"""Dynamic guidance adversarial distillation (Park, Min, 2024, arXiv:2409.01627)."""

from __future__ import annotations

import torch
from torch import Tensor

from kdiga import losses
from kdiga.methods.adaad import widest_disagreement
from kdiga.methods.base import CheckedOptions, Needs, Passes, coefficient, register
from kdiga.methods.class_means import classes_of
from kdiga.methods.context import StepContext
from kdiga.types import Objective, Term


@register("dgad", paper="Park and Min 2024, arXiv:2409.01627")
class DGAD(CheckedOptions):
    """Imitate a corrected teacher: at clean images where it is wrong there, and otherwise at adversarial images.

    ``L = mean_i { m_i KL_i(T~(x) || S(x)) + (1 - m_i) KL_i(T~(x_adv) || S(x_adv)) }
    + consistency_weight * mean_i |p_S(x_adv) - p_S(x)|^2 / K``. ``m_i`` is 1 where the teacher misclassifies the clean
    image and otherwise 0; ``T~`` has the largest and the true logit exchanged where the teacher is wrong; ``K`` is the
    number of classes; ``x_adv`` as in ``adaad``. The first two means are over the whole batch, as in the authors' code.

    Args:
        consistency_weight: Weight of the squared change of the student's probabilities.
        steps: Number of PGD steps; each queries the teacher.
        step_size: Step length in pixels in [0, 1]; None is eps / 4.
    """

    consistency_weight: float = coefficient(1.0, 0.1, 10)
    steps: int = 10
    step_size: float | None = None

    @property
    def needs(self) -> Needs:
        """The attack runs both networks forwards and backwards; then both see clean and adversarial images."""
        return Needs(
            student=Passes(self.steps + 2, self.steps + 2),
            teacher=Passes(self.steps + 2, self.steps),
            teacher_queries=True,
            train_forwards=2,
        )

    def __call__(self, step: StepContext) -> Objective:
        """Attack both networks, then return the clean, the robust and the consistency term."""
        adv_images = widest_disagreement(step, steps=self.steps, step_size=self.step_size)
        labels, target = step.batch.labels, step.teacher_logits
        clean_logits, adv_logits = step.clean.logits, step.at(adv_images).logits
        mistaken = _mistaken(target, labels)
        clean = mistaken * losses.kl(clean_logits, corrected(target, labels))
        robust = ~mistaken * losses.kl(adv_logits, corrected(step.teacher_at(adv_images), labels))
        change = (adv_logits.softmax(1) - clean_logits.softmax(1)).square().mean(1)
        return Objective(
            (
                Term("robust", 1.0, robust.mean()),
                Term("clean", 1.0, clean.mean()),
                Term("consistency", self.consistency_weight, change.mean()),
            )
        )


def corrected(logits: Tensor, labels: Tensor) -> Tensor:
    """Return a teacher's logits with the largest and the true logit exchanged in each example that it gets wrong."""
    true = classes_of(labels).clamp_min(0)[:, None]
    values, largest = logits.max(1, keepdim=True)
    swapped = logits.scatter(1, largest, logits.gather(1, true)).scatter(1, true, values)
    return torch.where(_mistaken(logits, labels)[:, None], swapped, logits)


def _mistaken(logits: Tensor, labels: Tensor) -> Tensor:
    classes = classes_of(labels)
    return (logits.argmax(1) != classes) & (classes >= 0)
