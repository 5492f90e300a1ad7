"""One training step: models in their place, optimiser, route, and what a batch does to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from kdiga.methods import Method
from kdiga.routes import Route
from kdiga.step import Step, Teacher
from kdiga.stopwatch import Watch, silent
from kdiga.training.freezing import Frozen
from kdiga.training.optimization import build_optimizer, build_schedule, clip
from kdiga.training.passes import PassCounter
from kdiga.training.runtime import Runtime
from kdiga.training.settings import TrainingSettings
from kdiga.training.teaching import source_of
from kdiga.types import Batch, Objective, ThreatModel


class Stepper:
    """Takes training steps.

    Args:
        student: trained in place; moved to the run's device and layout, like the teachers.
        teachers: models or other sources of signals, as many as the method learns from.
        method: what to minimise.
        threat: what the student should withstand.
        settings: with nothing left on "auto".
        route: how differentiable input gradients are formed.
        steps: of the whole run.
        watch: told what is being computed.
    """

    def __init__(
        self, student: nn.Module, teachers: Sequence[nn.Module | Teacher], method: Method, threat: ThreatModel,
        settings: TrainingSettings, route: Route, *, steps: int, watch: Watch = silent,
    ) -> None:  # fmt: skip
        self.settings, self.method, self.threat, self.route = settings, method, threat, route
        self.steps, self.watch = steps, watch
        self.runtime = Runtime(settings)
        self.student = self.runtime.place(student)
        self.teachers = [self.runtime.place(one) if isinstance(one, nn.Module) else one for one in teachers]
        self.teacher_models = [one for one in self.teachers if isinstance(one, nn.Module)]
        self.trained_teacher = self.teacher_models[0] if method.needs.trains_teacher else None
        self.frozen = Frozen(self.student, settings.freeze)
        trained = [self.student] if self.trained_teacher is None else [self.student, self.trained_teacher]
        self.parameters = [p for model in trained for p in model.parameters() if p.requires_grad]
        self.optimizer = build_optimizer(trained, settings)
        self.schedule = build_schedule(self.optimizer, settings, steps)
        self.counter, self.memory = PassCounter(self.student, self.teacher_models), dict[str, Any]()
        self._compiled = self.counter.counted("student", self.runtime.compiled(self.student))
        self._sources = [
            source_of(
                one, method.needs, first=not place,
                compiled=self.counter.counted("teacher", self.runtime.compiled(one)),
            )
            for place, one in enumerate(self.teachers)
        ]  # fmt: skip

    def train_mode(self) -> None:
        """Put the student, and a teacher that is trained along, in train mode."""
        self.student.train()
        self.frozen.hold()
        if self.trained_teacher is not None:
            self.trained_teacher.train()

    def take(self, batch: Batch, number: int) -> Objective:
        """Take step ``number``, from 0, and return the objective that it lowered."""
        with self.watch("data"):
            batch = replace(batch, images=self.runtime.images(batch.images))
        self.optimizer.zero_grad(set_to_none=True)
        with self.watch("loss"), self.runtime.autocast():
            objective = self.method(self._step(batch, number))
            total = objective.total()
        with self.watch("backward"):
            # Only the parameters: images that ask for a gradient would cost one more pass to the input.
            self.runtime.accelerator.backward(total, inputs=self.parameters)
        with self.watch("optimizer"):
            clip(self.parameters, self.settings.grad_clip)
            self.optimizer.step()
            self.schedule.step()
        return objective

    def take_and_wait(self, batch: Batch, number: int) -> None:
        """Take a step and wait for the device, so that a clock beside it sees the step's end."""
        self.take(batch, number).terms[0].value.detach().item()

    def _step(self, batch: Batch, number: int) -> Step:
        first, second = (*self._sources, None, None)[:2]
        needs = self.method.needs
        return Step(
            batch, self.student, first, self.threat, self.route, needs.student_gradient,
            number / max(1, self.steps - 1), second_teach=second, trained_teacher=self.trained_teacher,
            gradient_of=needs.gradient_of, attack_batch_norm=self.settings.attack_batch_norm,
            alignment_batch_norm=self.settings.alignment_batch_norm, memory=self.memory, number=number,
            compiled=self._compiled, watch=self.watch,
        )  # fmt: skip

    def state(self) -> dict[str, Any]:
        """Return everything that changes, as tensors and plain data."""
        return {
            "student": self.student.state_dict(),
            "trained_teacher": self.trained_teacher and self.trained_teacher.state_dict(),
            "memory": self.memory,
            "passes": self.counter.totals,
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go back to what :meth:`state` returned."""
        self.student.load_state_dict(state["student"])
        if self.trained_teacher is not None:
            self.trained_teacher.load_state_dict(state["trained_teacher"])
        self.memory, self.counter.totals = state["memory"], state["passes"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
