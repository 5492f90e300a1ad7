"""Tangent alignment: input-gradient alignment by a finite step, without a second derivative."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from kdiga import losses
from kdiga.attacks import project, steepest
from kdiga.errors import InputError
from kdiga.methods.base import CheckedOptions, Needs, Passes, coefficient, register
from kdiga.methods.context import StepContext
from kdiga.types import Objective, Term

Learn = Literal["both", "adv"]


@register("tangent", paper="kdiga, docs/methods.md")
class Tangent(CheckedOptions):
    """Hold the student's loss below the teacher's tangent plane over the whole threat ball.

    ``gap(delta) = CE_s(x + delta) - CE_s(x) - <g_t(x), delta>`` at the delta that maximises it, and
    ``L = label_weight * CE_s(x) + teacher_weight * temperature**2 * KL(p_T || p_S) + gap_weight * gap``.

    With one step delta is ``eps * sign(g_s - g_t)`` for Linf and ``eps * (g_s - g_t) / ||.||_2`` for
    L2, so to first order the gap is ``eps`` times the dual norm of the gradient gap; the finite step
    adds the student's departure from linearity, the other part that an attack uses.
    The teacher never sees a perturbed image. A one-step gap may be negative.

    Args:
        label_weight: Weight of the cross-entropy with the labels.
        teacher_weight: Weight of the imitation.
        temperature: Temperature of the imitation, above 0.
        gap_weight: Weight of the gap in nats. 1 gave 41.3 % PGD-20 on CIFAR-10 at 4/255 from a teacher of
            43.3 % (RSLAD with 7 steps: 40.7 %).
        steps: Number of steps to the largest gap: 1 is the closed form, more is PGD on the gap.
        ramp: Share of the training, in [0, 1], over which ``gap_weight`` rises linearly from 0.
        learn_at: "both" images, or "adv": labels and imitation at the images of the gap too, and the clean loss in
            the gap a constant. Parameters then get a gradient at one image per example only, for the cost of a
            plain step, one more forward and one more backward to the images.
        align_share: Share of the batch with the gap term, in (0, 1]; below 1 these examples get a separate
            forward pass.
        align_every: Number of steps between two gap terms; the weight is multiplied by it.
        flat: Whether to use a level plane in place of the teacher's tangent, that is 0 for ``g_t``: the method
            without the teacher's gradient.
    """

    label_weight: float = 0.5
    teacher_weight: float = 0.5
    temperature: float = 1.0
    gap_weight: float = coefficient(1.0, 0.3, 5)
    steps: int = 1
    ramp: float = 0.3
    flat: bool = False
    learn_at: Learn = "both"
    align_share: float = 1.0
    align_every: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.learn_at == "adv" and (self.align_share, self.align_every) != (1, 1):
            raise InputError(
                f"align_share was {self.align_share:g} and align_every {self.align_every} with learn_at 'adv', which "
                "learns from the images of the gap alone. Leave them out, or use learn_at both."
            )

    @property
    def needs(self) -> Needs:
        """One step reads the clean input gradient; several are an attack. A part adds a pass."""
        several, parted = self.steps > 1, int(self.align_share < 1)
        attack = Passes(self.steps, self.steps) if several else Passes(0, 1)
        adv_only = int(self.learn_at == "adv")
        return Needs(
            student=Passes(attack.forwards + 2 + parted, attack.backwards + 2 + parted - adv_only),
            teacher=Passes(1 + parted * (not self.flat), 0 if self.flat else 1),
            teacher_gradient=not self.flat,
            student_gradient="none" if several else "value",
            train_forwards=2,
            label_loss=self.label_weight > 0,
        )

    def __call__(self, step: StepContext) -> Objective:
        """Return the label, the imitation and the gap term."""
        if self.learn_at == "adv":
            return self._at_the_gap(step)
        rest, part = step.for_alignment(self.align_share, self.align_every)
        target = rest.ask_teacher_first(None if self.flat else part)
        # The clean images first: they move the running statistics that an attack in eval mode uses.
        label, gap = rest.clean.losses.mean(), rest.clean.losses.new_zeros(())
        if part is not None:
            gap = self._gap(part)
        imitation = losses.kl(rest.clean.logits, target, self.temperature)
        return self._objective(step, label, imitation.mean(), gap)

    @property
    def added_needs(self) -> Needs:
        """All but the labels and the imitation."""
        if self.learn_at == "adv":
            raise InputError(
                "learn_at was 'adv', which has labels and imitation at the images of the gap; the gap alone is added "
                "to another method. Leave it out."
            )
        return replace(self.needs, label_loss=False)

    def added_term(self, step: StepContext) -> Term:
        """Return the gap term."""
        _, part = step.for_alignment(self.align_share, self.align_every)
        gap = step.batch.images.new_zeros(()) if part is None else self._gap(part)
        return self._weighted(step, gap)

    def _gap(self, step: StepContext) -> Tensor:
        adv_images = self._widest_gap(step)
        gap = step.at(adv_images, step.settings.alignment_batch_norm).hard_losses - step.aligned.hard_losses
        return (gap - self._rise(step, adv_images)).mean()

    def _weighted(self, step: StepContext, gap: Tensor) -> Term:
        return Term("gap", self.gap_weight * self.align_every * step.ramp(self.ramp), gap)

    def _at_the_gap(self, step: StepContext) -> Objective:
        target = step.ask_teacher_first(None if self.flat else step)
        clean_losses = step.aligned.hard_losses.detach()
        adv_images, in_eval = self._widest_gap(step), step.settings.alignment_batch_norm == "eval"
        with torch.no_grad():  # before the pass that learns, which moves the running statistics
            eval_losses = step.at(adv_images, "eval").hard_losses if in_eval else None
        adv = step.at(adv_images)
        adv_losses = adv.hard_losses
        if eval_losses is not None:  # the value in the mode of the clean losses, the derivative of the pass that learns
            adv_losses = eval_losses + adv_losses - adv_losses.detach()
        imitation = losses.kl(adv.logits, target, self.temperature)
        gap = adv_losses - clean_losses - self._rise(step, adv_images)
        return self._objective(step, adv.losses.mean(), imitation.mean(), gap.mean())

    def _objective(self, step: StepContext, label: Tensor, imitation: Tensor, gap: Tensor) -> Objective:
        return Objective(
            (
                Term("label", self.label_weight, label),
                Term("teacher", self.teacher_weight, imitation),
                self._weighted(step, gap),
            )
        )

    def _widest_gap(self, step: StepContext) -> Tensor:
        images = step.batch.images
        if self.steps == 1:
            direction = step.aligned.input_gradient_value
            if not self.flat:
                direction = direction - step.teacher_gradient
            return project(images + steepest(direction, step.threat), images, step.threat)

        def gap(adv_images: Tensor) -> Tensor:
            student_losses = losses.cross_entropy(step.predict(adv_images), step.batch.labels)
            return student_losses - self._rise(step, adv_images)

        return step.attack(gap, steps=self.steps)

    def _rise(self, step: StepContext, adv_images: Tensor) -> Tensor:
        """Return the rise of the teacher's tangent plane from the clean image along the clipped delta."""
        delta = adv_images - step.batch.images
        return delta.new_zeros(len(delta)) if self.flat else (step.teacher_gradient * delta).flatten(1).sum(1)
