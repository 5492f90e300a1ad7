"""One training step: models in their place, optimiser, route, and what a batch does to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from kdiga.distributed.batch_shards import BatchShard, Share, on_batch_shard
from kdiga.distributed.process_group import ALONE, ProcessGroup
from kdiga.distributed.rng_streams import RngStreams
from kdiga.distributed.sync_batch_norm import share_statistics
from kdiga.errors import InputError
from kdiga.gradients.routes import Route
from kdiga.gradients.student_pass import StepStatistics
from kdiga.methods import Method
from kdiga.methods.context import StepClock, StepContext, StepModels, StepObservers, StepSettings, Teacher
from kdiga.stopwatch import Watch, silent
from kdiga.training.averaging import moving_average, running_statistics
from kdiga.training.freezing import Frozen
from kdiga.training.optimization import build_optimizer, build_schedule, clip
from kdiga.training.pass_counter import PassCounter
from kdiga.training.resume_checks import check_optimizer, check_schedule, same_form
from kdiga.training.runtime import Runtime
from kdiga.training.settings import TrainingSettings
from kdiga.training.teacher_sources import teacher_source
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
        process_group: of processes that share every batch.

    Raises:
        InputError: for micro-batches with a method that weighs examples by their batch.
    """

    def __init__(
        self,
        student: nn.Module,
        teachers: Sequence[nn.Module | Teacher],
        method: Method,
        threat: ThreatModel,
        settings: TrainingSettings,
        route: Route,
        *,
        steps: int,
        watch: Watch = silent,
        process_group: ProcessGroup = ALONE,
    ) -> None:
        self.settings, self.method, self.threat, self.route = settings, method, threat, route
        self.steps, self.watch = steps, watch
        self.process_group = process_group
        self.runtime = Runtime(settings)
        _check_pieces(method, settings)
        self.student = self.runtime.place(student)
        self.teachers = [self.runtime.place(one) if isinstance(one, nn.Module) else one for one in teachers]
        self.teacher_models = [one for one in self.teachers if isinstance(one, nn.Module)]
        self.trained_teacher = self.teacher_models[0] if method.needs.trains_teacher else None
        for model in self._trained:
            process_group.begin_equal(model)
        self._undo = share_statistics(self._trained if settings.sync_batch_norm else (), process_group)
        self.frozen = Frozen(self.student, settings.freeze)  # of the modules as they are from here on
        self.average = moving_average(self.student, settings.ema)
        self.streams = RngStreams(process_group, settings.accumulate, self.runtime.device)
        self.parameters = [p for model in self._trained for p in model.parameters() if p.requires_grad]
        self.optimizer = build_optimizer(self._trained, settings)
        self.schedule = build_schedule(self.optimizer, settings, steps)
        self.counter, self.memory = PassCounter(self.student, self.teacher_models), dict[str, Any]()
        self._step_models = self._models_of_steps()
        self._step_settings = StepSettings(
            threat,
            route,
            method.needs.student_gradient,
            method.needs.gradient_of,
            settings.attack_batch_norm,
            settings.alignment_batch_norm,
        )

    def _models_of_steps(self) -> StepModels:
        compiled = self.counter.counted("student", self.runtime.compiled(self.student))
        sources = [
            teacher_source(
                one,
                self.method.needs,
                first=not place,
                compiled=self.counter.counted("teacher", self.runtime.compiled(one)),
            )
            for place, one in enumerate(self.teachers)
        ]
        first, second = (*sources, None, None)[:2]
        return StepModels(self.student, first, second, self.trained_teacher, compiled)

    @property
    def _trained(self) -> list[nn.Module]:
        return [self.student] if self.trained_teacher is None else [self.student, self.trained_teacher]

    @property
    def judged(self) -> nn.Module:
        """What is validated and kept: the student, or its moving average where there is one."""
        return self.student if self.average is None else self.average.module

    def leave(self) -> None:
        """Leave the models as plain modules in PyTorch's own memory layout."""
        self.frozen.release()
        self._undo()
        for model in (self.student, *self.teacher_models):
            model.to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]

    def agree(self) -> None:
        """Put the mean over processes in the place of each one's running statistics, so that all hold one model."""
        self.process_group.average(self._statistics())

    def train_mode(self) -> None:
        """Put the student, and a teacher that is trained along, in train mode."""
        self.student.train()
        self.frozen.hold()
        if self.trained_teacher is not None:
            self.trained_teacher.train()

    def take(self, batch: Batch, number: int, counts: list[Tensor] | None = None) -> Objective:
        """Take step ``number``, from 0, and return the objective that it lowered.

        Args:
            batch: of this process.
            number: of the step.
            counts: given what :meth:`StepStatistics.counts` returns for every piece; None looks at nothing.
        """
        with self.watch("data"):
            batch = replace(batch, images=self.runtime.images(batch.images))
        self.optimizer.zero_grad(set_to_none=True)
        with self.streams.stepping():
            parts = zip(_cut(batch, self.settings.accumulate), self.streams.each_piece(), strict=True)
            objectives = [self._learn(part, number, one, counts) for part, one in parts]
        objective = self._over_all(objectives)
        with self.watch("optimizer"):
            clip(self.parameters, self.settings.grad_clip)
            self.optimizer.step()
            self.schedule.step()
            if self.average is not None:
                self.average.update(self.student, step=number + 1)
        return objective

    def _learn(self, batch: Batch, number: int, one: BatchShard, counts: list[Tensor] | None) -> Objective:
        statistics = None if counts is None else StepStatistics(self.runtime.device)
        with on_batch_shard(one):
            with self.watch("loss"), self.runtime.autocast():
                objective = self.method(self._context(batch, number, statistics))
                total = objective.total() / self.settings.accumulate
            with self.watch("backward"):
                # Only the parameters: images that ask for a gradient would cost one more pass to the input.
                self.runtime.accelerator.backward(total, inputs=self.parameters)
        if statistics is not None and counts is not None:
            counts.append(statistics.counts())
        return objective

    def _over_all(self, objectives: Sequence[Objective]) -> Objective:
        """Average gradients over processes and terms over all pieces, in one exchange."""
        first = objectives[0]
        if len(objectives) == 1 and self.process_group.count == 1:
            return first
        values = torch.stack([torch.stack([term.value.detach() for term in one.terms]) for one in objectives]).mean(0)
        with self.watch("optimizer"):
            self.process_group.average([values, *(p.grad for p in self.parameters if p.grad is not None)])
        return Objective([replace(term, value=value) for term, value in zip(first.terms, values, strict=True)])

    def take_and_wait(self, batch: Batch, number: int) -> None:
        """Take a step and wait for the device, so that a clock beside it sees the step's end."""
        self.take(batch, number).terms[0].value.detach().item()

    def _context(self, batch: Batch, number: int, statistics: StepStatistics | None) -> StepContext:
        clock = StepClock(number / max(1, self.steps - 1), number)
        observers = StepObservers(self.watch, statistics)
        return StepContext(batch, self._step_models, self._step_settings, clock, self.memory, observers)

    def state(self) -> dict[str, Any]:
        """Return everything that changes and is the same in every process, as tensors and plain data."""
        return {
            "student": self.student.state_dict(),
            "trained_teacher": self.trained_teacher and self.trained_teacher.state_dict(),
            "average": self.average and self.average.module.state_dict(),
            "memory": self.memory,
            "passes": self.counter.totals,
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
        }

    def own_state(self) -> dict[str, Any]:
        """Return what changes and is each process's own: its random streams and running statistics."""
        return {"streams": self.streams.state(), "statistics": [one.cpu() for one in self._statistics()]}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go back to what :meth:`state` returned.

        Raises:
            ValueError: for a state of another form, or another error for none at all.
        """
        fresh = self.state()
        check_optimizer(self.optimizer, state["optimizer"], fresh["optimizer"])
        if not same_form(state["passes"], fresh["passes"]):
            raise ValueError("its passes have another form")
        check_schedule(state["schedule"], fresh["schedule"], self.steps)
        self.student.load_state_dict(state["student"])
        if self.trained_teacher is not None:
            self.trained_teacher.load_state_dict(state["trained_teacher"])
        if self.average is not None:
            self.average.module.load_state_dict(state["average"])
        self.memory, self.counter.totals = state["memory"], state["passes"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])

    def load_own_states(self, states: list[Any]) -> None:
        """Go on in the middle of an epoch, from what :meth:`own_state` returned in each process, by rank.

        Of another number of processes, running statistics are averaged; see :meth:`RngStreams.load_state` for the rest.
        """
        self.streams.load_state([one["streams"] for one in states])
        same = len(states) == self.process_group.count
        for place, held in enumerate(self._statistics()):
            each = torch.stack([one["statistics"][place] for one in states])
            held.copy_(each[self.process_group.rank] if same else each.mean(0))

    def _statistics(self) -> list[torch.Tensor]:
        return running_statistics([*self._trained, None if self.average is None else self.average.module])


def _cut(batch: Batch, count: int) -> list[Batch]:
    """Return a process's batch in equal parts."""
    return [batch] if count == 1 else [batch.rows(Share(at, count).rows(len(batch.labels))) for at in range(count)]


def _check_pieces(method: Method, settings: TrainingSettings) -> None:
    if settings.accumulate > 1 and method.needs.couples_batch:
        raise InputError(
            f"accumulate was {settings.accumulate} and method {method.info.name!r} weighs examples by the batch they "
            "are in, so that micro-batches would give another result; set accumulate to 1."
        )
