"""The shared results of one training step: each quantity is computed once, on first use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol, TypeVar, runtime_checkable

from torch import Tensor, nn

from kdiga.attacks import PGD, uniform_start
from kdiga.attacks.pgd import Start
from kdiga.errors import InputError
from kdiga.gradients.routes import Exact, Route
from kdiga.gradients.student_pass import BatchNormMode, Forward, GradientUse, PassOptions, StepStatistics, StudentPass
from kdiga.losses import Score, cross_entropy, labels_or_predictions
from kdiga.model_output import logits_at
from kdiga.model_state import evaluating, frozen_parameters, frozen_statistics
from kdiga.stopwatch import Watch, silent
from kdiga.types import Batch, TeacherSignal, ThreatModel

T = TypeVar("T")


@runtime_checkable
class Teacher(Protocol):
    """A source of teacher signals for images: a live model, or stored signals."""

    @property
    def answers_queries(self) -> bool:
        """Whether it can answer for images that the method generates, such as adversarial images."""
        ...

    def __call__(self, batch: Batch) -> TeacherSignal:
        """Return the signal for the batch's images."""
        ...

    def logits(self, batch: Batch) -> Tensor:
        """Return the logits for the batch's images, without the input gradient."""
        ...

    def at(self, images: Tensor) -> Tensor:
        """Return logits for any images, with a graph to the images if these require a gradient."""
        ...


@dataclass(frozen=True)
class StepModels:
    """The models of a training run."""

    student: nn.Module  # module in training
    teacher: Teacher | None = None  # source of the teacher's signals; None for methods without a teacher
    second_teacher: Teacher | None = None  # source of the second teacher's signals, for methods with two teachers
    # Teacher module in train mode, for methods that train the teacher together with the student.
    trained_teacher: nn.Module | None = None
    # Compiled forward of the student, for work that is differentiated once; None runs the module.
    compiled: Forward | None = None


@dataclass(frozen=True)
class StepSettings:
    """The threat model of a run, and how its steps compute attacks and input gradients."""

    threat: ThreatModel  # ball that attacks stay in
    route: Route = field(default_factory=Exact)  # way to differentiate input gradients by the parameters
    gradient: GradientUse = "differentiable"  # use of the student's input gradient
    gradient_of: Score = "loss"  # score of each example that input gradients are taken of
    # Mode of the student's batch norm during attacks. Running statistics do not change in either mode.
    attack_batch_norm: BatchNormMode = "eval"
    # Mode of the student's batch norm for its input gradient; "eval" needs a separate forward pass.
    alignment_batch_norm: BatchNormMode = "train"
    label_smoothing: float = 0.0  # share of the uniform distribution in the labels of label losses, in [0, 1)


@dataclass(frozen=True)
class StepClock:
    """Position of a step in the training run."""

    progress: float = 1.0  # fraction of the training that is done, in [0, 1]
    number: int = 0  # number of steps before this one


@dataclass(frozen=True)
class StepObservers:
    """Measurements of a step that do not change its results."""

    watch: Watch = silent  # stopwatch for the sections of the step
    statistics: StepStatistics | None = None  # collector of the student's passes; None collects nothing


class StepRecord:
    """What attacks, random starts and teachers gave in a step, for the same step with other weights of the student."""

    def __init__(self) -> None:
        self._results = list[Any]()
        self._repeated: Iterator[Any] | None = None
        self._inside = False

    def repeat(self) -> None:
        """Return the recorded results, in their order, from now on."""
        self._repeated = iter(self._results)

    def __call__(self, compute: Callable[[], T]) -> T:
        """Return the result of a computation, or the recorded one; computations inside another are part of it."""
        if self._inside:
            return compute()
        if self._repeated is not None:
            return next(self._repeated)
        self._inside = True
        try:
            self._results.append(compute())
        finally:
            self._inside = False
        return self._results[-1]


def _compute(compute: Callable[[], T]) -> T:
    return compute()


@dataclass
class StepContext:
    """Everything that a method can use in one training step. Quantities that a method does not use are not computed."""

    batch: Batch  # images in [0, 1], labels, indices
    models: StepModels  # student and teachers
    settings: StepSettings  # threat model, and how attacks and input gradients are computed
    clock: StepClock = StepClock()  # position of the step in the run
    # State that the method keeps between steps; saved with the run.
    memory: dict[str, Any] = field(default_factory=dict)
    observers: StepObservers = StepObservers()  # stopwatch and statistics
    # Whether the batch is a subset of the step's batch. The student also sees these images with the whole batch, which
    # updates batch norm's running statistics; the subset does not update them again.
    is_subset: bool = False
    # Record of attacks, random starts and teachers, in a run that takes its steps at perturbed weights.
    record: Callable[[Callable[[], Any]], Any] = _compute
    _attacked: Tensor | None = field(default=None, init=False)  # images of the last attack
    # The student at these images, by the mode of batch norm.
    _passes: dict[BatchNormMode, StudentPass] = field(default_factory=dict[BatchNormMode, StudentPass], init=False)
    _targets: Tensor | None = field(default=None, init=False)  # the teacher's logits at these images

    @property
    def threat(self) -> ThreatModel:
        """The ball that attacks stay in."""
        return self.settings.threat

    @property
    def progress(self) -> float:
        """The fraction of the training that is done, in [0, 1]."""
        return self.clock.progress

    @cached_property
    def teacher(self) -> TeacherSignal:
        """The teacher at the clean images."""
        with self.observers.watch("teacher"):
            return self.record(lambda: _present(self.models.teacher, "a teacher")(self.batch))

    @cached_property
    def teacher_logits(self) -> Tensor:
        """The teacher's logits at the clean images, without the cost of its input gradient."""
        if "teacher" in self.__dict__:
            return self.teacher.logits
        with self.observers.watch("teacher"):
            return self.record(lambda: _present(self.models.teacher, "a teacher").logits(self.batch))

    def ask_teacher_first(self, part: StepContext | None) -> Tensor:
        """Return the teacher's logits, after the teacher's input gradient for a part of the step.

        Call it before the student runs: the memory of the teacher's backward pass is then free before the student's
        graph takes memory. A call for the gradient also gives the logits.

        Args:
            part: Step that uses ``teacher_gradient``; this step is accepted, None is for no gradient.
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
        with self.observers.watch("teacher"):
            return self.record(lambda: _present(self.models.second_teacher, "a second teacher")(self.batch))

    def teacher_at(self, images: Tensor) -> Tensor:
        """Return the teacher's logits at other images, with a graph to the images if these require a gradient.

        At the images of the last attack it runs once.
        """
        if images is self._attacked and self._targets is not None:
            return self._targets
        with self.observers.watch("teacher"):
            logits: Tensor = self.record(lambda: _present(self.models.teacher, "a teacher").at(images))
        if images is self._attacked:
            self._targets = logits
        return logits

    def guide(self, images: Tensor) -> Tensor:
        """Return the logits of the trained teacher, in train mode and with a graph to its parameters."""
        trained = _present(self.models.trained_teacher, "a teacher that is trained with the student")
        with self.observers.watch("teacher"):
            return logits_at(trained, images)

    def second_teacher_at(self, images: Tensor) -> Tensor:
        """Return the second teacher's logits at other images."""
        with self.observers.watch("teacher"):
            return self.record(lambda: _present(self.models.second_teacher, "a second teacher").at(images))

    @cached_property
    def clean(self) -> StudentPass:
        """The student at the clean images."""
        gradient = "none" if self.settings.alignment_batch_norm == "eval" else self.settings.gradient
        return self._student_pass(self.batch.images, gradient, keep_statistics=self.is_subset)

    @cached_property
    def aligned(self) -> StudentPass:
        """The student at the clean images, in the mode for its input gradient; same as ``clean`` if the modes agree."""
        if self.settings.alignment_batch_norm == "train":
            return self.clean
        mode = self.settings.alignment_batch_norm
        return self._student_pass(self.batch.images, self.settings.gradient, mode, keep_statistics=self.is_subset)

    @property
    def adv_images(self) -> Tensor:
        """The images of the step's last attack."""
        return _present(self._attacked, "an attack")

    def at(self, images: Tensor, batch_norm: BatchNormMode = "train") -> StudentPass:
        """Return the student at other images, without an input gradient; at those of the last attack it runs once."""
        if images is not self._attacked:
            return self._student_pass(images, "none", batch_norm)
        if batch_norm not in self._passes:
            self._passes[batch_norm] = self._student_pass(images, "none", batch_norm)
        return self._passes[batch_norm]

    def predict(self, images: Tensor) -> Tensor:
        """Return the student's logits in its present mode, from its compiled forward if it has one."""
        return logits_at(self.models.compiled or self.models.student, images)

    def moved_to(self, images: Tensor) -> StepContext:
        """Return this step with other images as the clean images."""
        return replace(self, batch=replace(self.batch, images=images))

    def for_alignment(self, share: float, every: int) -> tuple[StepContext, StepContext | None]:
        """Return separate steps for the alignment and the other terms, to align fewer images or at fewer steps.

        Args:
            share: Fraction of the batch to align, in (0, 1]. The examples are spread evenly over the batch, so that
                processes and micro-batches that share a batch choose the same examples as one process.
            every: Number of steps between two alignments.

        Returns:
            The step for the other terms, and the step for the alignment: the same step for the whole batch, None
            for a step without alignment.
        """
        if self.clock.number % every == 0 and share == 1:
            return self, self
        rest = replace(self, settings=replace(self.settings, gradient="none"))
        if self.clock.number % every:
            return rest, None
        aligned = self.batch.spread(max(1, round(share * len(self.batch.labels))))
        return rest, replace(self, batch=aligned, is_subset=True)

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

        The student runs in ``attack_batch_norm`` mode: in "eval" mode the attack on an example does not depend on
        other examples. Running statistics do not change in either mode.
        """
        pgd = PGD(
            threat=self.threat, steps=steps, step_size=step_size, start=start, allow_large_steps=allow_large_steps
        )
        with self.observers.watch("attack"), self.attacked():
            adv_images, answers = self.record(lambda: (pgd(objective, self.batch.images), self._teacher_answers()))
        self.__dict__.update(answers)  # in a repeated step: those that the objective of the recorded attack asked for
        self._attacked, self._passes, self._targets = adv_images, {}, None
        return adv_images

    def attack_loss(
        self, *, steps: int, step_size: float | None = None, start: Start = "uniform", answers: Tensor | None = None
    ) -> Tensor:
        """Return the images of :meth:`attack` on the student's cross-entropy.

        An example without a label has the class that ``answers`` predict, a teacher's logits at the clean images;
        without them the student's prediction at the start of the attack.
        """
        labels = self.batch.labels if answers is None else labels_or_predictions(self.batch.labels, answers)

        def loss(images: Tensor) -> Tensor:
            nonlocal labels
            logits = self.predict(images)
            labels = labels_or_predictions(labels, logits)
            return cross_entropy(logits, labels)

        return self.attack(loss, steps=steps, step_size=step_size, start=start)

    def uniform_start(self) -> Tensor:
        """Return images drawn uniformly from the threat ball of the clean images, clipped to [0, 1]."""
        return self.record(lambda: uniform_start(self.batch.images, self.threat))

    def attacked(self) -> AbstractContextManager[Any]:
        """Return the context in which the student has its mode for attacks."""
        student, stack = self.models.student, ExitStack()
        stack.enter_context((evaluating if self.settings.attack_batch_norm == "eval" else frozen_statistics)(student))
        # A compiled backward pass computes all derivatives that it was compiled for; an attack needs only the images'.
        stack.enter_context(nullcontext() if self.models.compiled is None else frozen_parameters(student))
        return stack

    def ramp(self, share: float) -> float:
        """Return the factor, in [0, 1], of a coefficient that rises linearly over the first ``share`` of training."""
        return 1.0 if share <= 0 else min(1.0, self.clock.progress / share)

    def _teacher_answers(self) -> dict[str, Any]:
        names = ("teacher", "teacher_logits", "second_teacher")
        return {name: self.__dict__[name] for name in names if name in self.__dict__}

    def _student_pass(
        self, images: Tensor, gradient: GradientUse, batch_norm: BatchNormMode = "train", keep_statistics: bool = False
    ) -> StudentPass:
        settings, watch = self.settings, self.observers.watch
        options = PassOptions(
            gradient, settings.route, settings.gradient_of, batch_norm, keep_statistics, settings.label_smoothing
        )
        labels, compiled = self.batch.labels, self.models.compiled
        student_pass = StudentPass(self.models.student, images, labels, options, compiled=compiled, watch=watch)
        if self.observers.statistics is not None:
            self.observers.statistics.passes.append(student_pass)
        return student_pass


def _present(part: T | None, what: str) -> T:
    if part is None:
        raise InputError(f"this method needs {what} and none was given; pass one.")
    return part
