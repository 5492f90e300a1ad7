"""One training step's shared results: each quantity is computed on first use, and once."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn

from kdiga.attacks import PGD
from kdiga.attacks.pgd import Start
from kdiga.errors import InputError
from kdiga.gradients import Exact, Route
from kdiga.losses import Score, cross_entropy, score_by_name
from kdiga.modes import batch_statistics, evaluating, frozen_statistics
from kdiga.types import Batch, TeacherSignal, ThreatModel

GradientUse = Literal["none", "value", "differentiable"]
"""What a method does with the student's input gradient: nothing, reads it, or trains through it."""

BatchNormMode = Literal["train", "eval"]
"""Batch norm by the batch's own statistics, or by the running ones."""


T = TypeVar("T")


class Teacher(Protocol):
    """A source of signals about images: a live model, or what one once said."""

    @property
    def answers_queries(self) -> bool:
        """Whether it can be asked at images of the method's making."""
        ...

    def __call__(self, batch: Batch) -> TeacherSignal:
        """Return the signal at the batch's images."""
        ...

    def logits(self, batch: Batch) -> Tensor:
        """Return the logits at the batch's images, without the input gradient."""
        ...

    def at(self, images: Tensor) -> Tensor:
        """Return logits at any images, with a graph to the images if they ask for one."""
        ...


class Point:
    """The student at one batch of images: one forward pass serves logits, losses and gradient.

    Args:
        student: maps images to logits, in the mode it should run in.
        images: float (batch, channel, height, width).
        labels: int64 (batch,).
        gradient: what the input gradient will be used for; "none" skips its part of the graph.
        route: how a differentiable input gradient gets its derivative by the parameters.
        gradient_of: of which number of an example the input gradient is taken.
        batch_norm: "train" runs the student in the mode it is in, "eval" in eval mode.
    """

    def __init__(
        self, student: nn.Module, images: Tensor, labels: Tensor, *, gradient: GradientUse, route: Route,
        gradient_of: Score = "loss", batch_norm: BatchNormMode = "train",
    ) -> None:  # fmt: skip
        self._student, self._route, self._gradient = student, route, gradient
        self._score, self._batch_norm = score_by_name(gradient_of), batch_norm
        self.images = images.detach().requires_grad_(gradient != "none")
        self.labels = labels

    @cached_property
    def logits(self) -> Tensor:
        """Float (batch, num_classes), with a graph to the student."""
        if self._gradient == "differentiable":
            with self._route.forward_context():
                return self._run(self.images)
        return self._run(self.images)

    @cached_property
    def losses(self) -> Tensor:
        """Cross-entropy of each example in nats, (batch,)."""
        return cross_entropy(self.logits, self.labels)

    @cached_property
    def input_gradient(self) -> Tensor:
        """Row i is the derivative of example i's score by its pixels, with a graph to the parameters."""

        def score_at(images: Tensor) -> Tensor:
            with frozen_statistics(self._student):
                return self._score(self._run(images), self.labels).sum()

        parameters = tuple(p for p in self._student.parameters() if p.requires_grad)
        return self._route(self._score(self.logits, self.labels).sum(), self.images, score_at, parameters)

    @cached_property
    def input_gradient_value(self) -> Tensor:
        """The same numbers without a graph, for one backward pass to the input."""
        scores = self._score(self.logits, self.labels)
        (gradient,) = torch.autograd.grad(scores.sum(), self.images, retain_graph=True)
        return gradient

    def _run(self, images: Tensor) -> Tensor:
        with evaluating(self._student) if self._batch_norm == "eval" else nullcontext():
            return self._student(images)


@dataclass
class Step:
    """What one step of training can offer a method. Nothing is computed that the method does not use.

    Args:
        batch: images in [0, 1], labels, index.
        student: the module in training.
        teach: the teacher as a source of signals; None where there is none.
        threat: the ball that attacks stay in.
        route: how a differentiable input gradient is formed.
        gradient: what the method uses the student's input gradient for.
        progress: share of the training done, in [0, 1].
        second_teach: the second teacher, for methods that have two.
        trained_teacher: the teacher's module in train mode, where it is trained along with the student.
        gradient_of: of which number of an example input gradients are taken.
        attack_batch_norm: the student's mode while it is attacked. Its running statistics stay as they
            are either way.
        alignment_batch_norm: the student's mode where its input gradient is taken; "eval" costs a
            forward pass of its own.
        memory: what the method remembers from step to step; saved with the run.
    """

    batch: Batch
    student: nn.Module
    teach: Teacher | None
    threat: ThreatModel
    route: Route = field(default_factory=Exact)
    gradient: GradientUse = "differentiable"
    progress: float = 1.0
    second_teach: Teacher | None = None
    trained_teacher: nn.Module | None = None
    gradient_of: Score = "loss"
    attack_batch_norm: BatchNormMode = "eval"
    alignment_batch_norm: BatchNormMode = "train"
    memory: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def teacher(self) -> TeacherSignal:
        """The teacher at the clean images."""
        return _present(self.teach, "a teacher")(self.batch)

    @cached_property
    def teacher_gradient(self) -> Tensor:
        """The teacher's input gradient at the clean images, like the images."""
        return _present(self.teacher.input_gradient, "the teacher's input gradient")

    @cached_property
    def second_teacher(self) -> TeacherSignal:
        """The second teacher at the clean images."""
        return _present(self.second_teach, "a second teacher")(self.batch)

    def teacher_at(self, images: Tensor) -> Tensor:
        """Return the teacher's logits at other images, with a graph to them if they ask for one."""
        return _present(self.teach, "a teacher").at(images)

    def guide(self, images: Tensor) -> Tensor:
        """Return the logits of the teacher that is trained along, in train mode and with a graph to it."""
        return _present(self.trained_teacher, "a teacher that is trained along")(images)

    def second_teacher_at(self, images: Tensor) -> Tensor:
        """Return the second teacher's logits at other images."""
        return _present(self.second_teach, "a second teacher").at(images)

    @cached_property
    def clean(self) -> Point:
        """The student at the clean images."""
        return self._point(self.batch.images, "none" if self.alignment_batch_norm == "eval" else self.gradient)

    @cached_property
    def aligned(self) -> Point:
        """The student at the clean images, where its input gradient is taken; the clean point if modes agree."""
        if self.alignment_batch_norm == "train":
            return self.clean
        return self._point(self.batch.images, self.gradient, self.alignment_batch_norm)

    def at(self, images: Tensor, batch_norm: BatchNormMode = "train") -> Point:
        """Return the student at other images, without an input gradient."""
        return self._point(images, "none", batch_norm)

    def moved_to(self, images: Tensor) -> Step:
        """Return the step as it would be if these images were the clean ones."""
        return replace(self, batch=replace(self.batch, images=images))

    def attack(
        self,
        objective: Callable[[Tensor], Tensor],
        *,
        steps: int,
        step_size: float | None = None,
        start: Start = "uniform",
        allow_large_steps: bool = False,
    ) -> Tensor:
        """Return images in the ball that maximise a per-example objective of the images, detached.

        The student runs in ``attack_batch_norm`` mode meanwhile: in "eval" mode an example's attack
        depends on no other example. No running statistic moves in either.
        """
        pgd = PGD(
            threat=self.threat, steps=steps, step_size=step_size, start=start, allow_large_steps=allow_large_steps
        )
        with self.attacked():
            return pgd(objective, self.batch.images)

    def attack_loss(self, *, steps: int, step_size: float | None = None, start: Start = "uniform") -> Tensor:
        """Return the images of :meth:`attack` on the student's cross-entropy."""

        def loss(images: Tensor) -> Tensor:
            return cross_entropy(self.student(images), self.batch.labels)

        return self.attack(loss, steps=steps, step_size=step_size, start=start)

    def attacked(self) -> AbstractContextManager[None]:
        """Return the context that puts the student in the mode it is attacked in."""
        return evaluating(self.student) if self.attack_batch_norm == "eval" else batch_statistics(self.student)

    def ramp(self, share: float) -> float:
        """Return the factor of a coefficient that rises linearly over the first ``share`` of training."""
        return 1.0 if share <= 0 else min(1.0, self.progress / share)

    def _point(self, images: Tensor, gradient: GradientUse, batch_norm: BatchNormMode = "train") -> Point:
        return Point(
            self.student, images, self.batch.labels, gradient=gradient, route=self.route,
            gradient_of=self.gradient_of, batch_norm=batch_norm,
        )  # fmt: skip


def _present(part: T | None, what: str) -> T:
    if part is None:
        raise InputError(f"this method needs {what} and none was given; pass one.")
    return part
