"""One training step: a batch, an objective, gradients, and an optimiser step."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from kdiga.distributed.batch_shards import BatchShard, Share, on_batch_shard
from kdiga.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from kdiga.distributed.rng_streams import RngStreams
from kdiga.distributed.sync_batch_norm import running_statistics, share_statistics
from kdiga.errors import InputError
from kdiga.gradients.input_gradient import reentrant_checkpoint_as_error
from kdiga.gradients.routes import Route
from kdiga.gradients.student_pass import StepStatistics
from kdiga.methods import Method
from kdiga.methods.context import StepObservers, StepRecord, Teacher
from kdiga.model_state import copied, frozen_statistics
from kdiga.models.checkpoint import check_state
from kdiga.stopwatch import Watch, silent
from kdiga.training.averaging import EpochAverage, MovingAverage
from kdiga.training.distiller import Distiller
from kdiga.training.freezing import FrozenParameters
from kdiga.training.optimization import build_optimizer, build_schedule, clip_gradient
from kdiga.training.pass_counter import PassCounter
from kdiga.training.resume_checks import check_optimizer, check_schedule, same_structure, with_own_kernels
from kdiga.training.runtime import Runtime
from kdiga.training.settings import TrainingSettings
from kdiga.training.weight_perturbation import WeightPerturbation
from kdiga.types import Batch, Objective, ThreatModel, refuse_l1


@dataclass(frozen=True)
class TrainingTask:
    """What a run learns: models, method and threat model.

    Args:
        student: Model to train.
        teachers: Models or other sources of signals, as many as the method uses.
        method: Method to train with.
        threat: Threat model that the student should withstand.
    """

    student: nn.Module
    teachers: Sequence[nn.Module | Teacher]
    method: Method
    threat: ThreatModel

    def __post_init__(self) -> None:
        refuse_l1(self.threat, "training")

    def copy(self) -> TrainingTask:
        """Return the task with copies of all models that training changes."""
        trains = self.method.needs.trains_teacher
        teachers = [copied(one) if trains and isinstance(one, nn.Module) else one for one in self.teachers]
        return replace(self, student=copied(self.student), teachers=teachers)


class Stepper:
    """Takes training steps.

    Args:
        task: Models, method and threat model. The models are moved to the run's device and layout; the student is
            trained in place.
        settings: Settings, without "auto" except for the route.
        route: Way to differentiate input gradients by the parameters.
        steps: Number of steps of the whole run.
        process_group: Processes that share every batch.

    Raises:
        InputError: For micro-batches with a method that weighs examples by their batch, or a model whose state holds
            more than tensors.
    """

    def __init__(
        self,
        task: TrainingTask,
        settings: TrainingSettings,
        route: Route,
        *,
        steps: int,
        process_group: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        method = task.method
        _check_micro_batches(method, settings)
        self.settings, self.method, self.steps, self.process_group = settings, method, steps, process_group
        self.watch: Watch = silent
        self.runtime = Runtime(settings)
        self.student = self.runtime.place(task.student)
        self.teachers = [self.runtime.place(one) if isinstance(one, nn.Module) else one for one in task.teachers]
        self.teacher_models = [one for one in self.teachers if isinstance(one, nn.Module)]
        first, second = (*self.teachers, None, None)[:2]
        self.distiller = Distiller(
            self.student,
            first,
            method=method,
            total_steps=steps,
            threat=task.threat,
            second_teacher=second,
            route=route,
            attack_batch_norm=settings.attack_batch_norm,
            alignment_batch_norm=settings.alignment_batch_norm,
            label_smoothing=settings.label_smoothing,
        )
        self.trained_teacher, trained = self.distiller.models.trained_teacher, self.distiller.trained
        for model in trained:
            check_state(model)
            process_group.broadcast_weights(model)
        self._undo = share_statistics(trained if settings.sync_batch_norm else (), process_group)
        self.frozen = FrozenParameters(self.student, settings.freeze)  # after share_statistics, which changes modules
        self.average = MovingAverage(self.student, settings.ema) if settings.ema else None
        if settings.swa is not None:
            self.average = EpochAverage(self.student, settings.swa, settings.epochs)
        self.perturbation = WeightPerturbation(self.student, settings.awp)
        self.streams = RngStreams(process_group, settings.accumulate, self.runtime.device)
        self.parameters = list(self.distiller.parameters())
        self.optimizer = build_optimizer(trained, settings)
        self.schedule = build_schedule(self.optimizer, settings, steps)
        self.counter = PassCounter(self.student, self.teacher_models, settings.accumulate)
        self.distiller.run_compiled(
            self.counter.counted("student", self.runtime.compiled(self.student)),
            [self.counter.counted("teacher", self.runtime.compiled(one)) for one in self.teachers],
        )

    @property
    def result_model(self) -> nn.Module:
        """The model that is validated and saved: the student, or its average if there is one."""
        return self.student if self.average is None else self.average.module

    def release_models(self) -> None:
        """Restore the models as plain modules in PyTorch's default memory layout."""
        self.frozen.release()
        self._undo()
        for model in (self.student, *self.teacher_models):
            model.to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]

    def average_statistics(self) -> None:
        """Replace the running statistics by their mean over processes, so that all processes have the same model."""
        self.process_group.average(self._statistics())

    def train_mode(self) -> None:
        """Put the student, and a teacher that is trained, in train mode."""
        self.student.train()
        self.frozen.freeze_statistics()
        if self.trained_teacher is not None:
            self.trained_teacher.train()

    def take(self, batch: Batch, number: int, counts: list[Tensor] | None = None) -> Objective:
        """Take step ``number``, from 0, and return its objective.

        Args:
            batch: Batch of this process.
            number: Number of the step.
            counts: List that receives :meth:`StepStatistics.counts` of every micro-batch; None computes no counts.
        """
        with self.watch("data"):
            batch = replace(batch, images=self.runtime.images(batch.images))
        self.optimizer.zero_grad(set_to_none=True)
        with self.streams.stepping(), ExitStack() as stack:
            records: Sequence[StepRecord | None] = [None] * self.settings.accumulate
            if self.settings.awp:
                memory = copy.deepcopy(self.distiller.memory)
                records = self._ascend(batch, number)
                stack.enter_context(self.perturbation.applied())
                self.optimizer.zero_grad(set_to_none=True)
                # The memory of the unperturbed pass stays: its attacks are the ones that were made.
                stack.callback(setattr, self.distiller, "memory", self.distiller.memory)
                self.distiller.memory = memory
            parts = zip(self._parts(batch), records, strict=True)
            objectives = [self._backward(part, number, counts, record) for part, record in parts]
        objective = self._average(objectives)
        with self.watch("optimizer"):
            clip_gradient(self.parameters, self.settings.grad_clip)
            self.optimizer.step()
            self.schedule.step()
            if isinstance(self.average, MovingAverage):
                self.average.update(self.student, step=number + 1)
        return objective

    def end_epoch(self, epoch: int, batches: Callable[[], Iterable[Batch]]) -> None:
        """Add the weights after an epoch to the average of epochs, if there is one.

        Args:
            epoch: Number of the epoch, from 0.
            batches: Returns the process's training batches, for the average's running statistics.
        """
        if isinstance(self.average, EpochAverage) and self.average.add(self.student, epoch):
            images = (self.runtime.images(part.images) for one in batches() for part in self._divided(one))
            with self.runtime.autocast():
                passes = self.average.estimate_statistics(self.student, images)
            self.counter.of_micro_batches["student_forwards"] += passes

    def _ascend(self, batch: Batch, number: int) -> list[StepRecord]:
        """Take the gradient that the weights are perturbed along, and return the attacks of each micro-batch."""
        records = [StepRecord() for _ in range(self.settings.accumulate)]
        with ExitStack() as stack:
            for model in self.distiller.trained:
                stack.enter_context(frozen_statistics(model))
            for part, record in zip(self._parts(batch), records, strict=True):
                self._backward(part, number, None, record)
                record.repeat()
        self.process_group.average([one.grad for one in self.parameters if one.grad is not None])
        return records

    def _divided(self, batch: Batch) -> list[Batch]:
        count, size = self.settings.accumulate, len(batch.labels)
        return [batch] if count == 1 else [batch.rows(Share(at, count).rows(size)) for at in range(count)]

    def _parts(self, batch: Batch) -> Iterator[tuple[Batch, BatchShard]]:
        return zip(self._divided(batch), self.streams.shards(), strict=True)

    def _backward(
        self, part: tuple[Batch, BatchShard], number: int, counts: list[Tensor] | None, record: StepRecord | None
    ) -> Objective:
        batch, shard = part
        statistics = None if counts is None else StepStatistics(self.runtime.device)
        with on_batch_shard(shard):
            with self.watch("loss"), self.runtime.autocast():
                observers = StepObservers(self.watch, statistics)
                step = self.distiller.context(batch, number, observers)
                objective = self.method(step if record is None else replace(step, record=record))
                total = objective.total() / self.settings.accumulate
            with self.watch("backward"), reentrant_checkpoint_as_error():
                # Only the parameters: a gradient of the images would cost one more pass to the input.
                total.backward(inputs=self.parameters)
        if statistics is not None and counts is not None:
            counts.append(statistics.counts())
        return objective

    def _average(self, objectives: Sequence[Objective]) -> Objective:
        """Average gradients over processes and terms over all micro-batches, in one exchange."""
        first = objectives[0]
        if len(objectives) == 1 and self.process_group.count == 1:
            return first
        values = torch.stack([torch.stack([term.value.detach() for term in one.terms]) for one in objectives]).mean(0)
        with self.watch("optimizer"):
            self.process_group.average([values, *(p.grad for p in self.parameters if p.grad is not None)])
        return Objective([replace(term, value=value) for term, value in zip(first.terms, values, strict=True)])

    def take_and_wait(self, batch: Batch, number: int) -> None:
        """Take a step and wait for the device, so that a clock can measure it."""
        self.take(batch, number).terms[0].value.detach().item()

    def state(self) -> dict[str, Any]:
        """Return the state that is the same in every process, as tensors and plain data."""
        return {
            "student": self.student.state_dict(),
            "trained_teacher": self.trained_teacher and self.trained_teacher.state_dict(),
            "average": self.average and self.average.module.state_dict(),
            "memory": self.distiller.memory,
            "passes": self.counter.totals,
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
        }

    def own_state(self) -> dict[str, Any]:
        """Return the state of this process: its random streams and running statistics."""
        return {"streams": self.streams.state(), "statistics": [one.cpu() for one in self._statistics()]}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore a result of :meth:`state`.

        Raises:
            ValueError: If the state has another structure; or another error, if it has another type.
        """
        fresh = self.state()
        optimizer = with_own_kernels(state["optimizer"], fresh["optimizer"])
        check_optimizer(self.optimizer, optimizer, fresh["optimizer"])
        if not same_structure(state["passes"], fresh["passes"]):
            raise ValueError("its passes have another form")
        check_schedule(state["schedule"], fresh["schedule"], self.steps)
        self.student.load_state_dict(state["student"])
        if self.trained_teacher is not None:
            self.trained_teacher.load_state_dict(state["trained_teacher"])
        if self.average is not None:
            self.average.module.load_state_dict(state["average"])
        self.distiller.memory, self.counter.totals = state["memory"], state["passes"]
        self.optimizer.load_state_dict(optimizer)
        self.schedule.load_state_dict(state["schedule"])

    def load_own_states(self, states: list[Any]) -> None:
        """Continue in the middle of an epoch, from the results of :meth:`own_state` in each process, by rank.

        For another number of processes, running statistics are averaged; for random streams see
        :meth:`RngStreams.load_state`.
        """
        self.streams.load_state([one["streams"] for one in states])
        same = len(states) == self.process_group.count
        for place, statistic in enumerate(self._statistics()):
            each = torch.stack([one["statistics"][place] for one in states])
            statistic.copy_(each[self.process_group.rank] if same else each.mean(0))

    def _statistics(self) -> list[Tensor]:
        return running_statistics([*self.distiller.trained, None if self.average is None else self.average.module])


def _check_micro_batches(method: Method, settings: TrainingSettings) -> None:
    if settings.accumulate > 1 and method.needs.couples_batch:
        raise InputError(
            f"accumulate was {settings.accumulate} and method {method.info.name!r} weighs examples by the batch they "
            "are in, so that micro-batches would give another result; set accumulate to 1."
        )
