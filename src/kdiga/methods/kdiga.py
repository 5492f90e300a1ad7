"""Knowledge distillation with input gradient alignment (Shao et al., 2021, arXiv:2110.12072)."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from kdiga import losses
from kdiga.distributed import batch_shards
from kdiga.errors import InputError
from kdiga.methods.base import CheckedOptions, Needs, Passes, coefficient, register
from kdiga.methods.context import StepContext
from kdiga.types import Objective, Term, added_option

Convention = Literal["per-example", "author"]
RAMP = 0.3  # the full weight from the first step collapses training


@register("kdiga", paper="Shao et al. 2021, arXiv:2110.12072")
class KDIGA(CheckedOptions):
    """Match the teacher's soft labels and the gradient of its loss with respect to the image.

    ``L = label_weight * CE_s(x) + teacher_weight * temperature**2 * KL(p_T || p_S)
    + gradient_weight * mean_i D(g_s,i , g_t,i)``, on clean images only.

    ``convention="author"`` gives the scalar of the author's public code: the KL averaged over the classes too,
    and ``gamma / B`` times one Euclidean norm over the whole batch's gradients of the batch-mean
    cross-entropy, ``gamma`` being ``gradient_weight``, without a ramp. :func:`per_example_weight`
    converts a gamma.

    Args:
        label_weight: Weight of the cross-entropy with the labels.
        teacher_weight: Weight of the imitation.
        temperature: Temperature of the imitation, above 0.
        gradient_weight: Weight of the alignment, per example and independent of the batch size. 1 on the unsquared
            L2 gap gave 39.0 % PGD-20 on CIFAR-10 at 4/255 from a teacher of 43.3 % (KD: 22.8 %); 10 fell to chance.
        distance: "l2", "l2-squared", "l1", "cosine", or "dual" to the threat model's norm (l1 for Linf).
        gradient_of: "loss" (cross-entropy), "probability" or "logit" of an example's own class.
        random_start: Whether to use KDIGA-RS: all terms, the teacher's included, at ``x`` plus uniform noise from
            the threat ball, clipped to [0, 1].
        ramp: Share of the training, in [0, 1], over which ``gradient_weight`` rises linearly from 0; None is 0.3,
            and 0 in the author's convention.
        convention: "per-example" or "author".
        align_share: Share of the batch to align, in (0, 1]; below 1 these examples get a separate forward pass.
        align_every: Number of steps between two alignments; the weight is multiplied by it.
        second_forward: Whether the student runs at the clean images once more, which moves batch norm's running
            statistics twice a step, as in the author's code. In the author's convention only.

    Raises:
        InputError: for unknown names. In the author's convention also for another distance or score, and for a
            share of the batch or of the steps.
    """

    label_weight: float = 0.5
    teacher_weight: float = 0.5
    temperature: float = 1.0
    gradient_weight: float = coefficient(1.0, 0.1, 10)
    distance: str = "l2"
    gradient_of: losses.Score = "loss"
    random_start: bool = False
    ramp: float | None = None
    convention: Convention = "per-example"
    align_share: float = 1.0
    align_every: int = 1
    second_forward: bool = added_option(False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.second_forward and self.convention != "author":
            raise InputError(
                "second_forward was True with convention per-example; only the author's code runs twice. Leave it out, "
                "or use convention author."
            )
        losses.check_distance(self.distance)
        if self.convention == "author" and (self.distance, self.gradient_of) != ("l2", "loss"):
            raise InputError(
                f"distance was {self.distance!r} and gradient_of {self.gradient_of!r}; the author's convention has "
                "'l2' and 'loss' only. Leave them out, or use convention per-example."
            )
        if self.convention == "author" and (self.align_share, self.align_every) != (1, 1):
            raise InputError(
                f"align_share was {self.align_share:g} and align_every {self.align_every}; the author's convention "
                "aligns whole batches at every step. Leave them out, or use convention per-example."
            )

    @property
    def needs(self) -> Needs:
        """One forward gives logits and gradient; the second backward goes through the first. A part adds a pass."""
        parted, again = int(self.align_share < 1), int(self.second_forward)
        return Needs(
            student=Passes(1 + parted + again, 2 + parted),
            train_forwards=1 + again,
            teacher=Passes(1 + parted, 1),
            teacher_gradient=True,
            teacher_queries=self.random_start,
            student_gradient="differentiable",
            gradient_of=self.gradient_of,
            couples_batch=self.convention == "author",
            label_loss=self.label_weight > 0,
        )

    def __call__(self, step: StepContext) -> Objective:
        """Return the label, the imitation and the alignment term."""
        if self.random_start:
            step = step.moved_to(step.uniform_start())
        rest, part = step.for_alignment(self.align_share, self.align_every)
        target = rest.ask_teacher_first(part)
        if self.second_forward:
            with torch.no_grad():
                _ = step.at(step.batch.images).logits
        gap = self._term(step, part, rest.clean.losses)
        imitation = losses.kl(rest.clean.logits, target, self.temperature).mean()
        if self.convention == "author":
            imitation = imitation / rest.clean.logits.shape[1]
        return Objective(
            (
                Term("label", self.label_weight, rest.clean.losses.mean()),
                Term("teacher", self.teacher_weight, imitation),
                gap,
            )
        )

    @property
    def added_needs(self) -> Needs:
        """One clean pass of each network at most, with the input gradients."""
        if self.random_start:
            raise InputError(
                "random_start was True; the term that is added to another method is at its clean images. Leave it out."
            )
        return replace(self.needs, label_loss=False)

    def added_term(self, step: StepContext) -> Term:
        """Return the alignment term."""
        return self._term(step, step.for_alignment(self.align_share, self.align_every)[1], step.batch.images)

    def _term(self, step: StepContext, part: StepContext | None, like: Tensor) -> Term:
        """Return the alignment of a part of the batch; without a part, 0 of a tensor's type."""
        gap = like.new_zeros(()) if part is None else self._gap(part)
        return Term("gradient", self.gradient_weight * self.align_every * step.ramp(self._ramp), gap)

    def _gap(self, step: StepContext) -> Tensor:
        student, teacher = step.aligned.input_gradient, step.teacher_gradient
        if self.convention == "author":
            return _author_gap(student, teacher)
        return losses.distance_under(self.distance, step.threat.norm)(student, teacher).mean()

    @property
    def _ramp(self) -> float:
        if self.ramp is not None:
            return self.ramp
        return 0.0 if self.convention == "author" else RAMP


def per_example_weight(gamma: float, batch_size: int) -> float:
    """Return the ``gradient_weight`` that equals a gamma of the author's code at a batch size.

    Row i of the gradient of a batch-mean loss is ``g_i / B``, so ``(gamma / B) * ||G_S - G_T||_F`` is
    ``gamma * B**-1.5`` times the root mean square of the examples' gaps: exactly our term where all gaps
    are equal, and at least our term otherwise.

    >>> round(per_example_weight(10, 128), 6)
    0.006905
    """
    return gamma * batch_size**-1.5


def _author_gap(student: Tensor, teacher: Tensor) -> Tensor:
    shard = batch_shards.current_shard()
    batch = len(student) * shard.processes
    norm = losses.l2((student / batch).reshape(1, -1), (teacher / batch).reshape(1, -1))
    if shard.processes > 1:
        norms = shard.gather(norm).reshape(1, -1)
        norm = losses.l2(norms, torch.zeros_like(norms))
    return norm[0] / batch
