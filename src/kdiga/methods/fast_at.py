"""Single-step adversarial training (Wong et al., 2020), with GradAlign as an option."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from kdiga.distributed import batch_shards
from kdiga.losses import cosine
from kdiga.methods.base import CheckedOptions, Needs, Passes, coefficient, register
from kdiga.methods.context import StepContext
from kdiga.types import Objective, Term, added_option

FastStart = Literal["uniform", "clean"]


@register("fast-at", paper="Wong et al. 2020, arXiv:2001.03994")
class FastAT(CheckedOptions):
    """Cross-entropy on the images of one attack step: ``L = CE_s(x_adv)``.

    With GradAlign (Andriushchenko, Flammarion, 2020, arXiv:2007.02617),
    ``+ gradalign_weight * (1 - mean_i cos(g_s(x), g_s(x + U)))``, ``U`` uniform in the threat ball, trained
    through both gradients. The mean leaves out examples on which either gradient is zero, as the paper's
    code does.

    Args:
        start: Start of the attack: "uniform" in the ball, or "clean" (FGSM).
        step_size: Step length in pixels in [0, 1]; None is 1.25 eps from a uniform start and eps from a clean one.
        gradalign_weight: Weight of GradAlign, 0 for none; the paper uses 0.2 at eps 8/255 on CIFAR-10.
        detach_first: Whether GradAlign takes ``g_s(x)`` as a constant, as the authors' code does.
    """

    start: FastStart = "uniform"
    step_size: float | None = None
    gradalign_weight: float = coefficient(0.0, 0.03, 3)
    detach_first: bool = added_option(False)

    @property
    def needs(self) -> Needs:
        """GradAlign adds two forwards, each with a backward to the images and one through it."""
        if not self.gradalign_weight:
            return Needs(student=Passes(2, 2), teachers=0, label_loss=True)
        return Needs(
            student=Passes(4, 5 if self.detach_first else 6),
            teachers=0,
            student_gradient="differentiable",
            train_forwards=3,
            couples_batch=True,
            label_loss=True,
        )

    def __call__(self, step: StepContext) -> Objective:
        """Take one attack step, then return the loss there and, with a weight, GradAlign's term."""
        step_size = self.step_size or step.threat.eps * (1.25 if self.start == "uniform" else 1.0)
        adv_images = step.attack_loss(steps=1, step_size=step_size, start=self.start)
        terms = [Term("adversarial", 1.0, step.at(adv_images).losses.mean())]
        if self.gradalign_weight:
            noisy = step.moved_to(step.uniform_start())
            first = step.aligned.input_gradient_value if self.detach_first else step.aligned.input_gradient
            angle = mean_angle(first, noisy.aligned.input_gradient)
            terms.append(Term("gradalign", self.gradalign_weight, angle))
        return Objective(tuple(terms))


def mean_angle(a: Tensor, b: Tensor) -> Tensor:
    """Return ``1 - cos`` averaged over the examples with two nonzero gradients; 0 without such examples."""
    defined = a.detach().flatten(1).any(1) & b.detach().flatten(1).any(1)
    shard = batch_shards.current_shard()
    return shard.gather(cosine(a, b).sum()).sum() / shard.gather(defined.sum()).sum().clamp_min(1)
