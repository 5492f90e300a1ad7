"""The training loop: one method, one student, perhaps a teacher, batches; it knows no more than that."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdiga.data import Feed, Images, ImageSet, augmentation_by_name, feed_of
from kdiga.distributed.process_group import ALONE, ProcessGroup
from kdiga.errors import DivergedError, InputError
from kdiga.gradients.routes import Route, route_by_name
from kdiga.methods import Method
from kdiga.methods.context import Teacher
from kdiga.model_state import seeded
from kdiga.models.checkpoint import check_fit
from kdiga.runs.provenance import provenance
from kdiga.training.autotune import Choice, resolve_settings
from kdiga.training.cached_teachers import stored_views
from kdiga.training.divergence import TermLog, check_above_chance
from kdiga.training.first_batch import check_first_batch
from kdiga.training.journal import Journal
from kdiga.training.result import EpochRecord, TrainingResult
from kdiga.training.resume import Checkpoints
from kdiga.training.resume_state import Progress, identity_of
from kdiga.training.runtime import device_by_name
from kdiga.training.sanity_checks import OnWarning, SanityChecks
from kdiga.training.settings import TrainingSettings
from kdiga.training.stepper import Stepper
from kdiga.training.validation import Scores, Validator
from kdiga.types import ThreatModel

OnStep = Callable[[int, int], None]
OnEpoch = Callable[[EpochRecord], None]
OnChoice = Callable[[str, Choice], None]


class TrainingLoop:
    """A training run: its models, data, settings and how far it is; arguments are those of :func:`kdiga.distill`."""

    def __init__(
        self,
        student: nn.Module,
        teachers: list[nn.Module | Teacher],
        train: Images | Iterable[tuple[Tensor, Tensor]],
        validation: ImageSet | None,
        method: Method,
        threat: ThreatModel,
        settings: TrainingSettings,
        on_warning: OnWarning | None,
    ) -> None:
        self.asked, self.method, self.threat = settings, method, threat
        self.models = (student, teachers)
        self.device = device_by_name(settings.device)
        self.process_group = ProcessGroup.here(self.device)
        through = method.needs.student_gradient == "differentiable"
        self.sanity_checks = SanityChecks(trains_through=through, process_group=self.process_group, tell=on_warning)
        size = train.image_size if isinstance(train, Images) else 32
        self.views = stored_views(teachers, train, method.needs, settings)
        self.feed: Feed = feed_of(
            train,
            batch_size=settings.batch_size,
            seed=settings.seed,
            device=self.device,
            augmentation=augmentation_by_name(settings.augment, size),
            views=self.views,
            share=self.process_group.share,
        )
        self.validator = (
            None
            if validation is None
            else Validator(
                validation,
                threat,
                settings.validation_steps,
                settings.validation_examples,
                settings.seed,
                self.process_group,
            )
        )
        self.steps = len(self.feed) * settings.epochs
        self.progress, self.history, self.log = Progress(), list[EpochRecord](), TermLog(0)
        self.own_states: list[Any] | None = None

    def to_the_end(
        self,
        out: Path | None,
        *,
        resume: bool,
        on_step: OnStep | None,
        on_epoch: OnEpoch | None,
        on_choice: OnChoice | None,
    ) -> TrainingResult:
        """Train, from the beginning or from the state in ``out``, and leave the student with the best weights."""
        self.checkpoints = Checkpoints(out, self.process_group, self.asked.save_every)
        with self.checkpoints.listening():
            state = self.checkpoints.load(self._identity()) if resume else None
            with seeded(self.asked.seed, -1), nullcontext() if state is None else self.checkpoints.restoring():
                self._choose(None if state is None else state["choices"])
            for name, choice in self.choices.items():
                if on_choice is not None and choice["chosen"] is not None:
                    on_choice(name, choice)
            if state is not None:
                self._restore(state)
            self.journal = self._journal(out, state)
            try:
                with seeded(self.asked.seed, -1):
                    check_first_batch(self.stepper, next(iter(self.feed.epoch(0))), self.sanity_checks)
                while self.progress.epoch < self.asked.epochs:
                    self._finish(self._epoch(self.progress.epoch, on_step), on_epoch)
            except DivergedError as error:
                self.journal.write({"diverged": str(error)})
                raise
            finally:
                self.stepper.leave()
        return self._result()

    def _choose(self, earlier: dict[str, Choice] | None) -> None:
        """Settle what was left on "auto": as an interrupted run had it, or by a trial on a copy."""
        student, teachers = self.models

        def settle() -> tuple[TrainingSettings, dict[str, Choice]]:
            return resolve_settings(
                self.asked, self.method.needs, student, teachers, self._stepper, self.feed, self.steps, earlier
            )

        if self.process_group.count > 1 and earlier is None:
            # One process tries what is fastest, on its own; clocks of several would not agree.
            earlier = self.process_group.first(lambda: settle()[1])
        settings, self.choices = settle()
        route = route_by_name(self.choices["route"]["chosen"] or "exact", settings.probe)
        self.stepper = self._stepper(student, teachers, settings, route, self.process_group)
        self.student = self.stepper.student

    def _stepper(
        self,
        student: nn.Module,
        teachers: Sequence[nn.Module | Teacher],
        settings: TrainingSettings,
        route: Route,
        process_group: ProcessGroup = ALONE,
    ) -> Stepper:
        return Stepper(
            student, teachers, self.method, self.threat, settings, route, steps=self.steps, process_group=process_group
        )

    def _epoch(self, epoch: int, on_step: OnStep | None) -> EpochRecord:
        self.started = time.perf_counter()
        self.stepper.train_mode()
        # Everything random in an epoch comes from (seed, epoch), so a resumed run repeats it.
        with seeded(self.asked.seed, epoch), self.stepper.counter.counting():
            self.stepper.streams.begin(self.asked.seed, epoch)
            batches = self.feed.epoch(epoch, start=self.progress.position)
            if self.own_states is not None:
                with self.checkpoints.restoring():
                    self.stepper.load_own_states(self.own_states)
                self.own_states = None
            for batch in batches:
                done = epoch * len(self.feed) + self.progress.position
                counts = self.sanity_checks.due(done)
                self.log.add(self.stepper.take(batch, done, counts))
                self.sanity_checks.check(done, counts)
                self.progress.position += 1
                if on_step is not None:
                    on_step(done + 1, self.steps)
                self.checkpoints.look(self._state, f"after step {done + 1} of {self.steps}")
        self.log.check()
        self.stepper.agree()
        scores = self._validate(epoch, self.log)
        seconds = self._seconds()
        self.progress.seconds += seconds
        return EpochRecord(
            epoch,
            self.stepper.optimizer.param_groups[0]["lr"],
            self.log.means(),
            self.log.weights,
            scores and scores.clean,
            scores and scores.robust,
            round(seconds, 2),
        )

    def _seconds(self) -> float:
        return self.progress.spent + time.perf_counter() - self.started

    def _finish(self, record: EpochRecord, on_epoch: OnEpoch | None) -> None:
        """Write an epoch down, save the state, and heed a signal that came meanwhile."""
        self.history.append(record)
        self.journal.write(asdict(record))
        self.progress.epoch, self.progress.position, self.progress.spent = record.epoch + 1, 0, 0.0
        self.log = TermLog(self.progress.epoch)
        if on_epoch is not None:
            on_epoch(record)
        self.started = time.perf_counter()
        self.checkpoints.save(self._state)
        self.checkpoints.look(self._state, f"after epoch {self.progress.epoch} of {self.asked.epochs}")

    def _validate(self, epoch: int, log: TermLog) -> Scores | None:
        last = epoch + 1 == self.asked.epochs
        if self.validator is None:
            self._keep(epoch, float(epoch))
            return None
        if not last and (epoch + 1) % self.asked.validate_every:
            return None
        scores = self.validator(self.stepper.judged, epoch)
        # Early on a slow start and a collapse look alike; half-way through they do not.
        if last or epoch + 1 >= self.asked.epochs / 2:
            correct = round(scores.clean * scores.examples)
            shares = self.validator.class_shares()
            check_above_chance(correct, scores.examples, shares, epoch, terms=log.means(), weights=log.weights)
        self._keep(epoch, scores.by(self.asked.select))
        return scores

    def _keep(self, epoch: int, score: float) -> None:
        # Of equal scores the later one: it has been trained longer at a lower rate.
        if score >= self.progress.best_score:
            self.progress.best_epoch, self.progress.best_score = epoch, score
            self.progress.best_state = _to_cpu(self.stepper.judged)

    def _identity(self) -> dict[str, str | None]:
        return identity_of(self.method, self.threat, self.asked, self.views)

    def _state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        common = {
            "identity": self._identity(),
            "choices": self.choices,
            "progress": vars(replace(self.progress, spent=self._seconds() if self.progress.position else 0.0)),
            "history": [asdict(record) for record in self.history],
            "terms": self.log.state(),
            "journal_lines": self.journal.count,
            "looks": self.sanity_checks.state(),
        }
        return common | self.stepper.state(), self.stepper.own_state()

    def _restore(self, state: dict[str, Any]) -> None:
        with self.checkpoints.restoring():
            self.stepper.load_state(state)
            self.progress = Progress(**state["progress"])
            if self.progress.best_state is not None:
                check_fit(self.student.state_dict(), self.progress.best_state, "best_state")
            if self.progress.position > len(self.feed) or self.progress.epoch > self.asked.epochs:
                raise InputError(f"it is in epoch {self.progress.epoch} at step {self.progress.position}")
            self.history = [EpochRecord(**record) for record in state["history"]]
            self.log = TermLog(self.progress.epoch, state["terms"])
            self.own_states = state["own"] if self.progress.position else None
            self.sanity_checks.load_state(state["looks"])

    def _journal(self, out: Path | None, state: dict[str, Any] | None) -> Journal:
        if out is None or not self.process_group.leads:
            return Journal(None)
        out.mkdir(parents=True, exist_ok=True)
        return Journal(out / "journal.jsonl", keep=0 if state is None else state["journal_lines"])

    def _result(self) -> TrainingResult:
        last_state = _to_cpu(self.stepper.judged)
        best_state = self.progress.best_state or last_state
        self.student.load_state_dict(best_state)
        for model in (self.student, self.stepper.trained_teacher):
            if model is not None:
                model.eval()
        return TrainingResult(
            self.method.info.name,
            self.history,
            self.progress.best_epoch,
            best_state,
            last_state,
            self.progress.seconds / 60,
            self.asked.seed,
            dict(self.stepper.counter.totals),
            self.choices,
            provenance(self.device),
            self.sanity_checks.warnings,
        )


def _to_cpu(model: nn.Module) -> dict[str, Tensor]:
    # Contiguous: a best state in channels_last would carry the run's memory layout into the file.
    return {
        name: value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, value in model.state_dict().items()
    }
