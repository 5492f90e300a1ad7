"""One training step's shared results: each quantity is computed on first use, and once."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn

from kdiga.attacks import PGD
from kdiga.attacks.pgd import Start
from kdiga.errors import InputError
from kdiga.gradients.routes import Exact, Route
from kdiga.gradients.step_statistics import StepStatistics
from kdiga.gradients.student_pass import BatchNormMode, Forward, GradientUse, StudentPass
from kdiga.losses import Score, cross_entropy
from kdiga.model_state import batch_statistics, evaluating, frozen_parameters
from kdiga.stopwatch import Watch, silent
from kdiga.types import Batch, TeacherSignal, ThreatModel

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


@dataclass
class StepContext:
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
        number: steps done before this one.
        compiled: the student's forward, compiled, for work that is differentiated once; None runs the
            module.
        watch: told what is being computed.
        part: the step stands for some examples of the batch only, whose clean images the student sees
            elsewhere as well; batch norm's running statistics count them there.
        step_statistics: told of every point of the student; None where nobody looks.
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
    number: int = 0
    compiled: Forward | None = None
    watch: Watch = silent
    part: bool = False
    step_statistics: StepStatistics | None = None

    @cached_property
    def teacher(self) -> TeacherSignal:
        """The teacher at the clean images."""
        with self.watch("teacher"):
            return _present(self.teach, "a teacher")(self.batch)

    @cached_property
    def teacher_logits(self) -> Tensor:
        """Its logits there, which cost less alone where nobody has asked for the gradient."""
        if "teacher" in self.__dict__:
            return self.teacher.logits
        with self.watch("teacher"):
            return _present(self.teach, "a teacher").logits(self.batch)

    def ask_teacher_first(self, part: StepContext | None) -> Tensor:
        """Return the teacher's logits, the gradient of a part of the step having been asked for before them.

        Before the student runs, what the teacher's backward pass keeps does not stand beside the student's
        graph; and a teacher that is asked for its gradient gives its logits as well.

        Args:
            part: whose ``teacher_gradient`` will be used; may be the step itself, None for no gradient.
        """
        if part is not None:
            _ = part.teacher_gradient
        return self.teacher_logits

    @cached_property
    def teacher_gradient(self) -> Tensor:
        """The teacher's input gradient at the clean images, like the images."""
        return _present(self.teacher.input_gradient, "the teacher's input gradient")

    @cached_property
    def second_teacher(self) -> TeacherSignal:
        """The second teacher at the clean images."""
        with self.watch("teacher"):
            return _present(self.second_teach, "a second teacher")(self.batch)

    def teacher_at(self, images: Tensor) -> Tensor:
        """Return the teacher's logits at other images, with a graph to them if they ask for one."""
        with self.watch("teacher"):
            return _present(self.teach, "a teacher").at(images)

    def guide(self, images: Tensor) -> Tensor:
        """Return the logits of the teacher that is trained along, in train mode and with a graph to it."""
        with self.watch("teacher"):
            return _present(self.trained_teacher, "a teacher that is trained along")(images)

    def second_teacher_at(self, images: Tensor) -> Tensor:
        """Return the second teacher's logits at other images."""
        with self.watch("teacher"):
            return _present(self.second_teach, "a second teacher").at(images)

    @cached_property
    def clean(self) -> StudentPass:
        """The student at the clean images."""
        gradient = "none" if self.alignment_batch_norm == "eval" else self.gradient
        return self._point(self.batch.images, gradient, keep_statistics=self.part)

    @cached_property
    def aligned(self) -> StudentPass:
        """The student at the clean images, where its input gradient is taken; the clean point if modes agree."""
        if self.alignment_batch_norm == "train":
            return self.clean
        return self._point(self.batch.images, self.gradient, self.alignment_batch_norm, keep_statistics=self.part)

    def at(self, images: Tensor, batch_norm: BatchNormMode = "train") -> StudentPass:
        """Return the student at other images, without an input gradient."""
        return self._point(images, "none", batch_norm)

    def predict(self, images: Tensor) -> Tensor:
        """Return the student's logits in the mode it is in, by its compiled forward if it has one."""
        return (self.compiled or self.student)(images)

    def moved_to(self, images: Tensor) -> StepContext:
        """Return the step as it would be if these images were the clean ones."""
        return replace(self, batch=replace(self.batch, images=images))

    def for_alignment(self, share: float, every: int) -> tuple[StepContext, StepContext | None]:
        """Divide the step's work where input gradients are matched on fewer images or at fewer steps.

        Args:
            share: of the batch that is aligned, in (0, 1]: examples spread evenly over it, so that processes and
                micro-batches which share a batch choose what one process would.
            every: align at every so many steps only.

        Returns:
            The step for the rest of the objective, and that for the alignment: the same one for the whole
            batch, None when it is not this step's turn.
        """
        if self.number % every == 0 and share == 1:
            return self, self
        rest = replace(self, gradient="none")
        if self.number % every:
            return rest, None
        return rest, replace(self, batch=self.batch.spread(max(1, round(share * len(self.batch.labels)))), part=True)

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
        with self.watch("attack"), self.attacked():
            return pgd(objective, self.batch.images)

    def attack_loss(self, *, steps: int, step_size: float | None = None, start: Start = "uniform") -> Tensor:
        """Return the images of :meth:`attack` on the student's cross-entropy."""

        def loss(images: Tensor) -> Tensor:
            return cross_entropy(self.predict(images), self.batch.labels)

        return self.attack(loss, steps=steps, step_size=step_size, start=start)

    def attacked(self) -> AbstractContextManager[Any]:
        """Return the context that puts the student in the mode it is attacked in."""
        stack = ExitStack()
        stack.enter_context(
            evaluating(self.student) if self.attack_batch_norm == "eval" else batch_statistics(self.student)
        )
        # A compiled backward pass forms every derivative it was compiled for; an attack wants the images' alone.
        stack.enter_context(nullcontext() if self.compiled is None else frozen_parameters(self.student))
        return stack

    def ramp(self, share: float) -> float:
        """Return the factor of a coefficient that rises linearly over the first ``share`` of training."""
        return 1.0 if share <= 0 else min(1.0, self.progress / share)

    def _point(
        self,
        images: Tensor,
        gradient: GradientUse,
        batch_norm: BatchNormMode = "train",
        *,
        keep_statistics: bool = False,
    ) -> StudentPass:
        point = StudentPass(
            self.student,
            images,
            self.batch.labels,
            gradient=gradient,
            route=self.route,
            gradient_of=self.gradient_of,
            batch_norm=batch_norm,
            compiled=self.compiled,
            keep_statistics=keep_statistics,
            watch=self.watch,
        )
        if self.step_statistics is not None:
            self.step_statistics.points.append(point)
        return point


def _present(part: T | None, what: str) -> T:
    if part is None:
        raise InputError(f"this method needs {what} and none was given; pass one.")
    return part
