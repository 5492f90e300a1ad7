"""Tangent alignment: input-gradient alignment by a finite step, without a second derivative."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kdiga import losses
from kdiga.attacks import project, steepest
from kdiga.methods.needs import Needs, Passes
from kdiga.methods.options import Checked
from kdiga.methods.registry import coefficient, register
from kdiga.step import Step
from kdiga.types import Objective, Term


@register("tangent", paper="kdiga, docs/methods.md")
@dataclass(frozen=True)
class Tangent(Checked):
    """Hold the student's loss below the teacher's tangent plane over the whole threat ball.

    ``gap(delta) = CE_s(x + delta) - CE_s(x) - <g_t(x), delta>`` at the delta that maximises it, and
    ``L = label_weight * CE_s(x) + teacher_weight * temperature**2 * KL(p_T || p_S) + gap_weight * gap``.

    With one step delta is ``eps * sign(g_s - g_t)`` for Linf and ``eps * (g_s - g_t) / ||.||_2`` for
    L2, so to first order the gap is ``eps`` times the dual norm of the gradient gap; the finite step
    adds the student's own departure from linearity, the other part of what lets an attack through.
    The teacher is never asked at a perturbed image. A one-step gap may be negative.

    Args:
        label_weight: of the hard-label cross-entropy.
        teacher_weight: of the imitation.
        temperature: above 0.
        gap_weight: of the gap in nats. 1 gave 41.3 % PGD-20 on CIFAR-10 at 4/255 from a teacher of
            43.3 % (RSLAD with 7 steps: 40.7 %).
        steps: 1 is the closed form; more is PGD on the gap.
        ramp: share of the training over which ``gap_weight`` rises linearly from 0.
        flat: hold the student against a level plane in place of the teacher's tangent, that is, put 0 for
            ``g_t``: what the method is without the teacher's gradient.
    """

    label_weight: float = 0.5
    teacher_weight: float = 0.5
    temperature: float = 1.0
    gap_weight: float = coefficient(1.0, 0.3, 5)
    steps: int = 1
    ramp: float = 0.3
    flat: bool = False

    @property
    def needs(self) -> Needs:
        """One step reads the clean point's input gradient; several are an attack of their own."""
        several = self.steps > 1
        attack = Passes(self.steps, self.steps) if several else Passes(0, 1)
        return Needs(
            student=Passes(attack.forwards + 2, attack.backwards + 2),
            teacher=Passes(1, 0 if self.flat else 1),
            teacher_gradient=not self.flat,
            student_gradient="none" if several else "value",
            train_forwards=2,
        )

    def __call__(self, step: Step) -> Objective:
        """Return the label, the imitation and the gap term."""
        imitation = losses.kl(step.clean.logits, step.teacher.logits, self.temperature)
        adv_images = self._widest_gap(step)
        gap = step.at(adv_images, step.alignment_batch_norm).losses - step.aligned.losses
        # The inner product uses the delta that is left after clipping to [0, 1].
        gap = gap - self._rise(step, adv_images)
        return Objective(
            (
                Term("label", self.label_weight, step.clean.losses.mean()),
                Term("teacher", self.teacher_weight, imitation.mean()),
                Term("gap", self.gap_weight * step.ramp(self.ramp), gap.mean()),
            )
        )

    def _widest_gap(self, step: Step) -> Tensor:
        images = step.batch.images
        if self.steps == 1:
            direction = step.aligned.input_gradient_value
            if not self.flat:
                direction = direction - step.teacher_gradient
            return project(images + steepest(direction, step.threat), images, step.threat)

        def gap(adv_images: Tensor) -> Tensor:
            student_losses = losses.cross_entropy(step.student(adv_images), step.batch.labels)
            return student_losses - self._rise(step, adv_images)

        return step.attack(gap, steps=self.steps)

    def _rise(self, step: Step, adv_images: Tensor) -> Tensor:
        """Return how far the teacher's tangent plane rises from the clean image, (batch,)."""
        delta = adv_images - step.batch.images
        return delta.new_zeros(len(delta)) if self.flat else (step.teacher_gradient * delta).flatten(1).sum(1)
