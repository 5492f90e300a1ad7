"""Any method's loss in any training loop."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdiga.arguments import checked
from kdiga.checks import check_distinct, check_images, check_targets
from kdiga.distributed.process_group import SINGLE_PROCESS
from kdiga.errors import InputError
from kdiga.gradients.obstacles import obstacle_to_differences, obstacle_to_double_backward
from kdiga.gradients.routes import Exact, Route, route_by_name
from kdiga.gradients.student_pass import BatchNormMode, Forward, StepStatistics
from kdiga.losses import Score
from kdiga.methods import Method, method_by_name
from kdiga.methods.context import StepClock, StepContext, StepModels, StepObservers, StepSettings, Teacher
from kdiga.model_state import all_in_eval_mode, device_of
from kdiga.teachers import CachedTeacher, OnlineTeacher
from kdiga.training.sanity_checks import SanityChecks, check_first_batch
from kdiga.training.teacher_sources import check_batch_for_stores, teacher_source, teachers_of
from kdiga.types import Batch, Objective, ThreatModel, refuse_l1

Choice = dict[str, Any]
"""``{"chosen": value, "why": sentence}``, with the measured times if there are any."""


class Distiller:
    """The loss of any method, for a training loop of your own.

    ``loss = distiller(images, labels)`` takes the place of the loss function. Optimizer, schedule, devices, autocast,
    gradient accumulation, clipping and processes stay with the loop: the loss is an ordinary scalar with a graph to the
    student. Attacks, ramps and checks of the first batches are those of :func:`kdiga.distill`, which is built on this
    class.

    Args:
        student: Module that maps images in [0, 1] to logits (batch, num_classes), in train mode. The result of
            ``torch.compile`` is accepted: it runs wherever the network is differentiated once. So is a student in
            ``DistributedDataParallel``.
        teacher: Robust model of the same classes, on the student's device. It runs in eval mode and does not change. Or
            the folder of a cache, which ``kdiga cache`` filled; or another source of signals. None for methods without
            a teacher. A method that trains its teacher needs it in train mode.
        method: Name that ``kdiga methods`` lists, a configured method such as ``kdiga.methods.KD(temperature=4)``, or
            a mapping as in a recipe: ``{"name": "kd", "temperature": 4}``.
        total_steps: Number of calls in the whole training, at least 1: epochs times batches. Ramps follow it.
        threat: Threat model that the student should withstand: a :class:`kdiga.ThreatModel`, or text such as
            "linf 8/255", which is the default.
        second_teacher: Second teacher, usually a naturally trained one, for methods with two teachers.
        route: Way to differentiate input gradients by the parameters: "exact", "exact-pytorch", "finite-difference" or
            "one-sided", or an object such as :class:`kdiga.FiniteDifference`. "auto" is exact if a trial on the first
            batch shows that the student can be differentiated twice, and otherwise finite-difference.
        attack_batch_norm: Mode of the student's batch norm during attacks: "eval" (running statistics) or "train"
            (statistics of the batch).
        alignment_batch_norm: Mode of the student's batch norm for its input gradient: "train" or "eval".
        label_smoothing: Share of the uniform distribution in the labels of label losses, in [0, 1); attacks and input
            gradients use the labels as they are.
        options: Options of the method, such as ``temperature=4``.

    Attributes:
        step: Number of calls so far.
        choices: Chosen route and reason, as in :class:`kdiga.TrainingResult`; empty before the first call.

    Raises:
        InputError: For an unknown method, option, threat model or route, a missing teacher, or a cache for a method
            that queries its teacher at generated images.

    >>> student, teacher = (nn.Sequential(nn.Flatten(), nn.Linear(4, 3)) for _ in range(2))
    >>> distiller = Distiller(student, teacher, method="kd", temperature=4, total_steps=100)
    >>> distiller(torch.rand(2, 1, 2, 2), torch.tensor([0, 2])).backward()
    >>> output = distiller.output(torch.rand(2, 1, 2, 2), torch.tensor([0, 2]))
    >>> sorted(output.terms), output.logits.shape, distiller.step
    (['label', 'teacher'], torch.Size([2, 3]), 2)
    """

    @checked
    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | Teacher | str | Path | None = None,
        *,
        method: str | Mapping[str, Any] | Method = "kdiga",
        total_steps: int,
        threat: ThreatModel | str | None = None,
        second_teacher: nn.Module | Teacher | None = None,
        route: str | Route = "auto",
        attack_batch_norm: BatchNormMode = "eval",
        alignment_batch_norm: BatchNormMode = "train",
        label_smoothing: float = 0.0,
        **options: Any,
    ) -> None:
        self.method = method_by_name(method, options)
        needs = self.method.needs
        if total_steps < 1:
            raise InputError(f"total_steps was {total_steps}; it is the number of calls in the training, at least 1.")
        _check_smoothing(self.method, label_smoothing)
        source = CachedTeacher.open(teacher) if isinstance(teacher, (str, Path)) else teacher
        self.teachers = teachers_of(self.method, source, second_teacher)
        self.total_steps, self.step, self.memory, self.choices = total_steps, 0, dict[str, Any](), dict[str, Choice]()
        self._route = route
        self._is_ready = False
        self._sanity_checks = SanityChecks(
            trains_through=needs.student_gradient == "differentiable", process_group=SINGLE_PROCESS, on_warning=None
        )
        sources = [teacher_source(one, needs, first=not place) for place, one in enumerate(self.teachers)]
        first, second = (*sources, None, None)[:2]
        trained = self.teachers[0] if needs.trains_teacher else None
        self.models = StepModels(student, first, second, trained if isinstance(trained, nn.Module) else None)
        if isinstance(plain := getattr(student, "_orig_mod", None), nn.Module):
            self.models = replace(self.models, student=plain, compiled=student)
        for one in self.teachers:
            check_distinct(self.models.student, one)
        self.settings = StepSettings(
            refuse_l1(ThreatModel.of(threat), "training"),
            Exact() if route == "auto" else route_by_name(route),
            needs.student_gradient,
            needs.gradient_of,
            attack_batch_norm,
            alignment_batch_norm,
            label_smoothing,
        )

    @property
    def trained(self) -> list[nn.Module]:
        """The models that the loss trains: the student, and the teacher if the method trains it."""
        models = self.models
        return [models.student] if models.trained_teacher is None else [models.student, models.trained_teacher]

    def parameters(self) -> Generator[nn.Parameter]:
        """Yield the parameters that the loss trains, for the optimizer."""
        for model in self.trained:
            yield from (parameter for parameter in model.parameters() if parameter.requires_grad)

    def __call__(
        self, images: Tensor, labels: Tensor | None = None, *, index: Tensor | None = None, view: int = 0
    ) -> Tensor:
        """Return the loss of a batch, and count the step.

        Args:
            images: Float (batch, channel, height, width), pixels in [0, 1].
            labels: Labels, integers in [0, num_classes), shape (batch,), with -100 for an example without a label,
                whose label loss and input gradient are 0; or soft labels, probabilities of shape (batch, num_classes),
                as of mixup. With None the teacher's predictions stand in.
            index: Rows of the examples in the teacher's cache, integers, shape (batch,); needed with a cache only.
            view: Number of the augmentation in the teacher's cache.

        Returns:
            Tensor: Scalar with a graph to the student.

        Raises:
            InputError: If images or labels have another shape or type, gradients are off, a cache is used without an
                index, or its input gradients without integer labels. At the first call also for pixels and labels out
                of range, models on different devices or with different classes, and a student that cannot be
                differentiated twice on an exact route.
            DivergedError: If the method trains through input gradients and all of them are exactly zero.
        """
        return self.output(images, labels, index=index, view=view).loss

    def output(
        self, images: Tensor, labels: Tensor | None = None, *, index: Tensor | None = None, view: int = 0
    ) -> DistillerOutput:
        """Return the loss as a call does, with its terms by name and the student's logits."""
        if not torch.is_grad_enabled():
            raise InputError(
                "gradients are off here (no_grad or inference_mode), and the loss needs them; compute it in the "
                "training step only, and validate with the student's logits."
            )
        batch = self._batch(images, labels, index, view)
        statistics = StepStatistics(images.device)
        step = self.context(batch, self.step, StepObservers(statistics=statistics))
        if labels is None:
            self._label_by_teacher(step)
        if not self._is_ready:
            self._prepare(step.batch)
            step.settings = self.settings
        objective = self.method(step)
        if self._sanity_checks.due(self.step) is not None:
            self._sanity_checks.check(self.step, [statistics.counts()])
        self.step += 1
        return DistillerOutput(objective, step, statistics)

    def context(self, batch: Batch, number: int, observers: StepObservers) -> StepContext:
        """Return what the method sees of a step.

        Args:
            batch: Batch of this process.
            number: Number of the step, from 0.
            observers: Stopwatch and statistics of the step.
        """
        clock = StepClock(min(1.0, number / max(1, self.total_steps - 1)), number)
        return StepContext(batch, self.models, self.settings, clock, self.memory, observers)

    def run_compiled(self, student: Forward | None, teachers: Sequence[Forward | None]) -> None:
        """Run compiled forwards of student and teachers, wherever they are differentiated once."""
        sources = [
            replace(source, compiled=forward) if isinstance(source, OnlineTeacher) else source
            for source, forward in zip((self.models.teacher, self.models.second_teacher), teachers, strict=False)
        ]
        first, second = (*sources, None, None)[:2]
        self.models = replace(self.models, teacher=first, second_teacher=second, compiled=student)

    def state_dict(self) -> dict[str, Any]:
        """Return the number of calls and the method's memory, to continue an interrupted training."""
        return {"step": self.step, "memory": dict(self.memory)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from the result of :meth:`state_dict`."""
        self.step, self.memory = state_dict["step"], dict(state_dict["memory"])

    def _batch(self, images: Tensor, labels: Tensor | None, index: Tensor | None, view: int) -> Batch:
        check_images(images, values=not self._is_ready)
        if labels is not None:
            labels = check_targets(labels, images)
        check_batch_for_stores((self.models.teacher, self.models.second_teacher), labels, index)
        if labels is None:
            labels = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        if index is None:
            index = torch.arange(len(images))
        elif not isinstance(index, Tensor) or index.shape != images.shape[:1] or index.is_floating_point():  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError("index must be the examples' rows in the cached images, integers of shape (batch,).")
        return Batch(images, labels, index, view)

    def _label_by_teacher(self, step: StepContext) -> None:
        if self.models.teacher is None or self.models.trained_teacher is not None:
            raise InputError(
                f"labels were None and method {self.method.info.name!r} has no trained teacher to take them from; "
                "pass labels."
            )
        step.batch = replace(step.batch, labels=step.teacher_logits.argmax(1))

    def _prepare(self, batch: Batch) -> None:
        """Check the first batch, and choose the route."""
        student, guide = self.models.student, self.models.trained_teacher
        if not len(batch.images):
            raise InputError("the batch was empty; give at least one image, or skip the step.")
        if not any(True for _ in self.parameters()):
            raise InputError(
                "no parameter of the student requires a gradient, so the loss cannot train it; call "
                "student.requires_grad_(True)."
            )
        for model in (student, *self.teachers):
            where = device_of(model) if isinstance(model, nn.Module) else batch.images.device
            if where != batch.images.device:
                raise InputError(
                    f"images were on {batch.images.device} and {'the student' if model is student else 'a teacher'} on "
                    f"{where}; both must be on one device. Move it with .to({str(batch.images.device)!r})."
                )
        if guide is not None and not guide.training:
            raise InputError(
                f"method {self.method.info.name!r} trains its teacher, which is in eval mode; call teacher.train(), "
                "and give distiller.parameters() to the optimizer."
            )
        if all_in_eval_mode(student):
            self._sanity_checks.warn(
                "student-mode",
                self.step,
                "the student's batch norm and dropout are in eval mode; to train it, call student.train() first.",
            )
        check_first_batch(student, self.teachers, guide, batch, self._sanity_checks)
        if self.method.needs.student_gradient == "differentiable":
            route, self.choices["route"] = choose_route(student, batch, self.method.needs.gradient_of, self._route)
            self.settings = replace(self.settings, route=route)
        self._is_ready = True


def _check_smoothing(method: Method, label_smoothing: float) -> None:
    if not 0 <= label_smoothing < 1:
        raise InputError(f"label_smoothing was {label_smoothing!r}; it is a share in [0, 1).")
    if label_smoothing and not method.needs.label_loss:
        raise InputError(
            f"label_smoothing was {label_smoothing:g} and method {method.info.name!r} has no label loss with these "
            "options; leave it out, or give the labels a weight where the method has one."
        )


@dataclass(frozen=True)
class DistillerOutput:
    """The loss of one batch, its terms, and the student's logits."""

    objective: Objective = field(repr=False)
    step: StepContext = field(repr=False)
    statistics: StepStatistics = field(repr=False)

    @cached_property
    def loss(self) -> Tensor:
        """The weighted sum of the terms, a scalar with a graph to the student."""
        return self.objective.total()

    @property
    def terms(self) -> dict[str, Tensor]:
        """The value of each term by name, without its weight and detached."""
        return {term.name: term.value.detach() for term in self.objective.terms}

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each term by name, at this step of its ramp."""
        return {term.name: term.weight for term in self.objective.terms}

    @cached_property
    def logits(self) -> Tensor:
        """The student's logits at the clean images, float (batch, num_classes), with their graph.

        A method that runs the student at other images only needs one more forward pass for them; the running
        statistics of batch norm do not change.
        """
        images = self.step.batch.images
        for one in self.statistics.passes:
            logits, _ = one.computed()
            clean = one.images.data_ptr() == images.data_ptr()
            if clean and logits is not None and logits.requires_grad and len(logits) == len(images):
                return logits
        settings = replace(self.step.settings, gradient="none", alignment_batch_norm="train")
        return replace(self.step, settings=settings, is_subset=True).clean.logits


def choose_route(
    student: nn.Module, batch: Batch, score: Score, wanted: str | Route, probe: float | None = None
) -> tuple[Route, Choice]:
    """Return the wanted route; for "auto" the exact route if the student can be differentiated twice.

    The choice does not depend on speed: on ReLU networks the routes compute different derivatives.

    Args:
        student: Module that maps images to logits; it does not change.
        batch: Batch whose first images the trial uses.
        score: Score of an example that the input gradient is taken of.
        wanted: Name of a route, "auto", or a route.
        probe: L2 length of the step of a named finite difference, in pixels; None is safe for the precision.

    Raises:
        InputError: If an exact route is given and the student cannot be differentiated twice.
    """
    route = Exact() if wanted == "auto" else route_by_name(wanted, probe)
    if not isinstance(route, Exact):
        _check_differences(student, batch, f"route was {wanted!r}")
        return route, {"chosen": wanted if isinstance(wanted, str) else repr(wanted), "why": "asked for"}
    name, few = "exact" if route.fast else "exact-pytorch", batch.first(2)
    obstacle = obstacle_to_double_backward(student, few.images, few.labels, route, score)
    if obstacle is None:
        return route, {"chosen": name, "why": "a trial showed that the student can be differentiated twice"}
    why = f"the student cannot be differentiated twice ({obstacle})"
    if wanted != "auto":
        raise InputError(f"route was {name!r}, and {why}; use route finite-difference, one-sided or auto.")
    _check_differences(student, batch, why)
    return route_by_name("finite-difference", probe), {"chosen": "finite-difference", "why": why}


def _check_differences(student: nn.Module, batch: Batch, why: str) -> None:
    if (obstacle := obstacle_to_differences(student, batch.images)) is not None:
        raise InputError(
            f"{why}, and a difference of two passes is not a derivative ({obstacle}); use a student without that, or a "
            "method that does not train through input gradients."
        )
