"""Input gradient adversarial matching (Chan, Tay, Ong, 2020, arXiv:1912.10185), without its discriminator."""

from __future__ import annotations

from kdiga import losses
from kdiga.methods.base import CheckedOptions, Needs, Passes, coefficient, register
from kdiga.methods.context import StepContext
from kdiga.types import Objective, Term


@register("igam", paper="Chan et al. 2020, arXiv:1912.10185")
class IGAM(CheckedOptions):
    """Match the input gradient of the true class's probability.

    ``L = CE_s(x) + gradient_weight * mean_i sum_pixels (u_s,i - u_t,i)**2``, ``u`` the input gradient of
    the softmax probability of an example's own class. The paper's discriminator between the two
    gradients is left out.

    The paper sums over the batch: its gamma of 10 at a batch of 32 is 320 here, on for the last
    eighth of 320,000 steps. Runs of a few epochs need a smaller weight for longer, hence these defaults.

    Args:
        gradient_weight: Weight of the matching term, per example.
        begin: Share of the training, in [0, 1], before which the matching term is off; the paper uses 0.875.
        ramp: Share of the training, in [0, 1], over which the weight rises linearly from 0.
    """

    gradient_weight: float = coefficient(10.0, 1, 100)
    begin: float = 0.0
    ramp: float = 0.3

    @property
    def needs(self) -> Needs:
        """One forward gives logits and gradient."""
        return Needs(
            student=Passes(1, 2),
            teacher=Passes(1, 1),
            teacher_gradient=True,
            student_gradient="differentiable",
            gradient_of="probability",
            label_loss=True,
        )

    def __call__(self, step: StepContext) -> Objective:
        """Return the label and the matching term."""
        if step.progress < self.begin:
            label = step.clean.losses.mean()
            return Objective((Term("label", 1.0, label), Term("gradient", 0.0, label.new_zeros(()))))
        step.ask_teacher_first(step)
        label = step.clean.losses.mean()
        gap = losses.l2_squared(step.aligned.input_gradient, step.teacher_gradient)
        return Objective(
            (
                Term("label", 1.0, label),
                Term("gradient", self.gradient_weight * step.ramp(self.ramp), gap.mean()),
            )
        )
