"""AdaIAD (Huang et al., 2023): AdaAD's attack with IAD-I's loss."""

from __future__ import annotations

from kdiga import losses
from kdiga.methods.adaad import widest_disagreement
from kdiga.methods.base import CheckedOptions, Needs, Passes, coefficient, register
from kdiga.methods.context import StepContext
from kdiga.methods.iad import distrust, trust
from kdiga.types import Objective, Term


@register("adaiad", paper="Huang et al. 2023, CVPR")
class AdaIAD(CheckedOptions):
    """Imitate the teacher where the two differ most, and the student itself where the teacher is not trusted.

    ``L = teacher_weight * temperature**2 * KL(p_T(x_adv) || p_S(x_adv))
    + self_weight * mean_i (1 - A_i) KL_i(p_S(x) || p_S(x_adv))``, the second from ``begin`` on, ``A`` as
    in ``iad``, ``x_adv`` as in ``adaad``.

    Args:
        teacher_weight: Weight of the imitation.
        self_weight: Weight of the self-imitation, the student's clean output being the target.
        temperature: Temperature of the imitation, above 0; the authors' default is 30.
        begin: Share of the training, in [0, 1], before which the teacher is fully trusted.
        trust_exponent: Exponent of the trust, above 0.
        detach_self: Whether to detach the self-imitation's target. The authors' code does not.
        steps: Number of PGD steps; each queries the teacher.
        step_size: Step length in pixels in [0, 1]; None is eps / 4.
    """

    teacher_weight: float = coefficient(1.0, 0.25, 4)
    self_weight: float = coefficient(1.0, 0.25, 4)
    temperature: float = 30.0
    begin: float = 0.3
    trust_exponent: float = 0.1
    detach_self: bool = False
    steps: int = 10
    step_size: float | None = None

    @property
    def needs(self) -> Needs:
        """The attack runs both networks forwards and backwards."""
        return Needs(
            student=Passes(self.steps + 2, self.steps + 2),
            teacher=Passes(self.steps + 1, self.steps),
            teacher_queries=True,
            train_forwards=2,
        )

    def __call__(self, step: StepContext) -> Objective:
        """Attack both networks, then return the imitation and the self-imitation."""
        adv_images = widest_disagreement(step, steps=self.steps, step_size=self.step_size)
        adv_logits, target = step.at(adv_images).logits, step.teacher_at(adv_images)
        own = adv_logits.new_zeros(1)
        if step.progress >= self.begin:
            trusted = trust(target, step.batch.labels, self.trust_exponent)
            own = distrust(trusted, adv_logits, step.clean.logits, detach=self.detach_self)
        imitation = losses.kl(adv_logits, target, self.temperature)
        return Objective(
            (
                Term("teacher", self.teacher_weight, imitation.mean()),
                Term("self", self.self_weight, own.mean()),
            )
        )
