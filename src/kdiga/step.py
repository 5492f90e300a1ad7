"""One training step's shared results: each quantity is computed on first use, and once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn

from kdiga.attacks import PGD
from kdiga.attacks.pgd import Start
from kdiga.errors import InputError
from kdiga.gradients import Exact, Route
from kdiga.losses import cross_entropy
from kdiga.modes import evaluating, frozen_statistics
from kdiga.types import Batch, TeacherSignal, ThreatModel

GradientUse = Literal["none", "value", "differentiable"]
"""What a method does with the student's input gradient: nothing, reads it, or trains through it."""


class Point:
    """The student at one batch of images: one forward pass serves logits, losses and gradient.

    Args:
        student: maps images to logits, in the mode it should run in.
        images: float (batch, channel, height, width).
        labels: int64 (batch,).
        gradient: what the input gradient will be used for; "none" skips its part of the graph.
        route: how a differentiable input gradient gets its derivative by the parameters.
    """

    def __init__(
        self, student: nn.Module, images: Tensor, labels: Tensor, *, gradient: GradientUse, route: Route
    ) -> None:
        self._student, self._route, self._gradient = student, route, gradient
        self.images = images.detach().requires_grad_(gradient != "none")
        self.labels = labels

    @cached_property
    def logits(self) -> Tensor:
        """Float (batch, num_classes), with a graph to the student."""
        if self._gradient == "differentiable":
            with self._route.forward_context():
                return self._student(self.images)
        return self._student(self.images)

    @cached_property
    def losses(self) -> Tensor:
        """Cross-entropy of each example in nats, (batch,)."""
        return cross_entropy(self.logits, self.labels)

    @cached_property
    def input_gradient(self) -> Tensor:
        """Row i is d losses[i] / d images[i], with a graph to the student's parameters."""

        def loss_at(images: Tensor) -> Tensor:
            with frozen_statistics(self._student):
                return cross_entropy(self._student(images), self.labels).sum()

        parameters = tuple(p for p in self._student.parameters() if p.requires_grad)
        return self._route(self.losses.sum(), self.images, loss_at, parameters)

    @cached_property
    def input_gradient_value(self) -> Tensor:
        """The same numbers without a graph, for one backward pass to the input."""
        (gradient,) = torch.autograd.grad(self.losses.sum(), self.images, retain_graph=True)
        return gradient


@dataclass
class Step:
    """What one step of training can offer a method. Nothing is computed that the method does not use.

    Args:
        batch: images in [0, 1], labels, index.
        student: the module in training.
        teach: returns the teacher's signal for a batch; None where there is no teacher.
        threat: the ball that attacks stay in.
        route: how a differentiable input gradient is formed.
        gradient: what the method uses the student's input gradient for.
        progress: share of the training done, in [0, 1].
    """

    batch: Batch
    student: nn.Module
    teach: Callable[[Batch], TeacherSignal] | None
    threat: ThreatModel
    route: Route = field(default_factory=Exact)
    gradient: GradientUse = "differentiable"
    progress: float = 1.0

    @cached_property
    def teacher(self) -> TeacherSignal:
        """The teacher at the clean images."""
        if self.teach is None:
            raise InputError("this method needs a teacher and none was given; pass one.")
        return self.teach(self.batch)

    @cached_property
    def teacher_gradient(self) -> Tensor:
        """The teacher's input gradient at the clean images, like the images."""
        gradient = self.teacher.input_gradient
        if gradient is None:
            raise InputError("this method needs the teacher's input gradient and the teacher's signal holds none.")
        return gradient

    @cached_property
    def clean(self) -> Point:
        """The student at the clean images."""
        return Point(self.student, self.batch.images, self.batch.labels, gradient=self.gradient, route=self.route)

    def at(self, images: Tensor) -> Point:
        """Return the student at other images, without an input gradient."""
        return Point(self.student, images, self.batch.labels, gradient="none", route=self.route)

    def attack(
        self,
        objective: Callable[[Tensor], Tensor],
        *,
        steps: int,
        step_size: float | None = None,
        start: Start = "uniform",
    ) -> Tensor:
        """Return images in the ball that maximise a per-example objective of the images, detached.

        The student runs in eval mode meanwhile, so an example's attack depends on no other example
        and no running statistic moves.
        """
        pgd = PGD(threat=self.threat, steps=steps, step_size=step_size, start=start)
        with evaluating(self.student):
            return pgd(objective, self.batch.images)

    def ramp(self, share: float) -> float:
        """Return the factor of a coefficient that rises linearly over the first ``share`` of training."""
        return 1.0 if share <= 0 else min(1.0, self.progress / share)
