"""The training loop: epochs of steps, with validation, checks, and a state to continue from."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdiga.data import Feed, Images, ImageSet, MixedSet, augmentation_by_name, feed_of
from kdiga.data.blending import BlendedFeed
from kdiga.distributed.process_group import ProcessGroup
from kdiga.errors import DivergedError, InputError
from kdiga.gradients.routes import route_by_name
from kdiga.model_state import all_in_eval_mode, seeded
from kdiga.models.checkpoint import check_fit
from kdiga.runs.provenance import provenance
from kdiga.runs.run_folder import JOURNAL, Journal
from kdiga.training.autotune import resolve_settings
from kdiga.training.distiller import Choice
from kdiga.training.divergence import CollapsedError, TermLog, better_than_guessing, describe_collapse, loss_falls
from kdiga.training.result import EpochRecord, TrainingResult
from kdiga.training.resume import Checkpoints, Progress, contents_of, identity_of
from kdiga.training.runtime import device_by_name
from kdiga.training.sanity_checks import OnWarning, SanityChecks, check_first_batch
from kdiga.training.settings import TrainingSettings
from kdiga.training.stepper import Stepper, TrainingTask
from kdiga.training.teacher_sources import stored_views
from kdiga.training.validation import Scores, Validator
from kdiga.types import Batch

OnStep = Callable[[int, int], None]
OnEpoch = Callable[[EpochRecord], None]
OnChoice = Callable[[str, Choice], None]


@dataclass(frozen=True)
class TrainingCallbacks:
    """Functions that a run calls; see :func:`kdiga.distill`."""

    on_step: OnStep | None = None
    on_epoch: OnEpoch | None = None
    on_choice: OnChoice | None = None
    on_warning: OnWarning | None = None


class TrainingLoop:
    """A training run.

    Args:
        task: Models, method and threat model.
        train: Training images, or batches of images and labels.
        validation: Images that choose the best checkpoint; None makes the last checkpoint the best.
        settings: Settings; "auto" is resolved when the run starts.
        out: Folder for journal and state; None writes nothing.
        callbacks: Functions that the run calls.
    """

    def __init__(
        self,
        task: TrainingTask,
        train: Images | Iterable[tuple[Tensor, Tensor]],
        validation: ImageSet | None,
        settings: TrainingSettings,
        out: Path | None,
        callbacks: TrainingCallbacks,
    ) -> None:
        self.task, self.settings, self.out, self.callbacks = task, settings, out, callbacks
        self.device = device_by_name(settings.device)
        self.process_group = ProcessGroup.connect(self.device)
        self.sanity_checks = SanityChecks(
            trains_through=task.method.needs.student_gradient == "differentiable",
            process_group=self.process_group,
            on_warning=callbacks.on_warning,
        )
        views = stored_views(task.teachers, train, task.method.needs, settings)
        self.identity = identity_of(task.method, task.threat, settings, views)
        if out is not None:
            self.identity |= contents_of(
                task.student, [] if task.method.needs.trains_teacher else task.teachers, train, validation
            )
        size = train.image_size if isinstance(train, Images) else 32
        self.feed: Feed = feed_of(
            train,
            batch_size=settings.batch_size,
            seed=settings.seed,
            device=self.device,
            augmentation=augmentation_by_name(settings.augment, size),
            views=views,
            share=self.process_group.share,
        )
        if settings.blend != "none":
            self.feed = blended(self.feed, train, settings)
        self.steps = len(self.feed) * settings.epochs
        if not self.steps:
            raise InputError("the training data holds no batch; give at least one image and its label.")
        self.validator = (
            None if validation is None else Validator.of(validation, task.threat, settings, self.process_group)
        )
        self.checkpoints = Checkpoints(out, self.process_group, settings.save_every)
        self.progress, self.history, self.terms = Progress(), list[EpochRecord](), TermLog(0)
        self.own_states: list[Any] | None = None  # of all processes, to continue from in the middle of an epoch
        self.choices = dict[str, Choice]()
        self.journal = Journal(None)
        self.epoch_start = 0.0

    def run(self, *, resume: bool) -> TrainingResult:
        """Train, from the beginning or from the saved state, and leave the student with the best weights."""
        with self.checkpoints.listening():
            state = self.checkpoints.load(self.identity) if resume else None
            with seeded(self.settings.seed, -1), nullcontext() if state is None else self.checkpoints.restoring():
                stepper = self._make_stepper(None if state is None else state["choices"])
            for name, choice in self.choices.items():
                if self.callbacks.on_choice is not None and choice["chosen"] is not None:
                    self.callbacks.on_choice(name, choice)
            if state is not None:
                self._restore(stepper, state)
            self._open_journal(0 if state is None else state["journal_lines"])
            try:
                with seeded(self.settings.seed, -1):
                    self._check_first_batch(stepper, next(iter(self.feed.epoch(0))))
                while self.progress.epoch < self.settings.epochs:
                    self._finish(stepper, self._epoch(stepper, self.progress.epoch))
            except DivergedError as error:
                self.journal.write({"diverged": str(error)})
                if isinstance(error, CollapsedError):
                    error.result = self._result(stepper)
                raise
            finally:
                stepper.release_models()
        return self._result(stepper)

    def _make_stepper(self, earlier: dict[str, Choice] | None) -> Stepper:
        """Return the stepper, with "auto" settings as in the interrupted run, or chosen by trials on a copy."""

        def resolve() -> tuple[TrainingSettings, dict[str, Choice]]:
            return resolve_settings(self.settings, self.task, self.feed, self.steps, earlier)

        if self.process_group.count > 1 and earlier is None:
            # Only one process runs the trials: the clocks of several would not agree.
            earlier = self.process_group.run_on_first(lambda: resolve()[1])
        settings, self.choices = resolve()
        route = route_by_name(self.choices["route"]["chosen"] or "exact", settings.probe)
        return Stepper(self.task, settings, route, steps=self.steps, process_group=self.process_group)

    def _check_first_batch(self, stepper: Stepper, batch: Batch) -> None:
        stepper.train_mode()
        if all_in_eval_mode(stepper.student) and not stepper.settings.freeze:
            self.sanity_checks.warn(
                "student-mode",
                0,
                "the student's batch norm and dropout stay in eval mode while it is trained, so they do not do their "
                "work: its train() does not reach them. If this is intended, name the frozen parts in freeze.",
            )
        batch = replace(batch, images=stepper.runtime.images(batch.images))
        check_first_batch(
            stepper.student,
            stepper.teachers,
            stepper.trained_teacher,
            batch,
            self.sanity_checks,
            parts=stepper.settings.accumulate,
        )

    def _epoch(self, stepper: Stepper, epoch: int) -> EpochRecord:
        self.epoch_start = time.perf_counter()
        stepper.train_mode()
        # All random numbers of an epoch come from (seed, epoch), so a resumed run repeats them.
        with seeded(self.settings.seed, epoch), stepper.counter.counting():
            stepper.streams.begin(self.settings.seed, epoch)
            batches = self.feed.epoch(epoch, start=self.progress.position)
            if self.own_states is not None:
                with self.checkpoints.restoring():
                    stepper.load_own_states(self.own_states)
                self.own_states = None
            for batch in batches:
                done = epoch * len(self.feed) + self.progress.position
                counts = self.sanity_checks.due(done)
                self.terms.add(stepper.take(batch, done, counts))
                self.sanity_checks.check(done, counts)
                self.progress.position += 1
                if self.callbacks.on_step is not None:
                    self.callbacks.on_step(done + 1, self.steps)
                self.checkpoints.save_if_due(lambda: self._state(stepper), f"after step {done + 1} of {self.steps}")
        self.terms.check()
        with seeded(self.settings.seed, epoch):
            stepper.end_epoch(epoch, lambda: self.feed.epoch(epoch))
        stepper.average_statistics()
        scores = self._validate(stepper, epoch)
        seconds = self._seconds()
        self.progress.seconds += seconds
        return EpochRecord(
            epoch,
            stepper.optimizer.param_groups[0]["lr"],
            self.terms.means(),
            self.terms.weights,
            scores and scores.clean,
            scores and scores.robust,
            round(seconds, 2),
        )

    def _seconds(self) -> float:
        return self.progress.spent + time.perf_counter() - self.epoch_start

    def _finish(self, stepper: Stepper, record: EpochRecord) -> None:
        """Record an epoch, save the state, and act on a signal that arrived in between."""
        self.history.append(record)
        self.journal.write(asdict(record))
        self.progress.epoch, self.progress.position, self.progress.spent = record.epoch + 1, 0, 0.0
        self.terms = TermLog(self.progress.epoch)
        if self.callbacks.on_epoch is not None:
            self.callbacks.on_epoch(record)
        self.epoch_start = time.perf_counter()
        self.checkpoints.save(lambda: self._state(stepper))
        where = f"after epoch {self.progress.epoch} of {self.settings.epochs}"
        self.checkpoints.save_if_due(lambda: self._state(stepper), where)

    def _validate(self, stepper: Stepper, epoch: int) -> Scores | None:
        last = epoch + 1 == self.settings.epochs
        if self.validator is None:
            self._update_best(stepper, epoch, float(epoch))
            return None
        if not last and (epoch + 1) % self.settings.validate_every:
            return None
        scores = self.validator(stepper.result_model, epoch)
        self._update_best(stepper, epoch, scores.by(self.settings.select))
        # In the first half, a slow start and a collapse can have the same accuracy.
        if (last or epoch + 1 >= self.settings.epochs / 2) and not better_than_guessing(scores):
            self._stop_or_warn(scores, epoch, last=last)
        return scores

    def _stop_or_warn(self, scores: Scores, epoch: int, *, last: bool) -> None:
        """End a run that does not learn; warn at the end of one that does, or that goes on at any rate."""
        terms, weights = self.terms.means(), self.terms.weights
        message = describe_collapse(scores, epoch, self.steps, terms=terms, weights=weights)
        if self.settings.stop_at_chance and not loss_falls(terms, weights, self.history):
            raise CollapsedError(message)
        if last:
            self.sanity_checks.warn("no-better-than-guessing", self.steps - 1, message)

    def _update_best(self, stepper: Stepper, epoch: int, score: float) -> None:
        # Of equal scores the later one: it was trained longer at a lower rate.
        if score >= self.progress.best_score:
            self.progress.best_epoch, self.progress.best_score = epoch, score
            self.progress.best_state = _to_cpu(stepper.result_model)

    def _state(self, stepper: Stepper) -> tuple[dict[str, Any], dict[str, Any]]:
        common = {
            "identity": self.identity,
            "choices": self.choices,
            "progress": vars(replace(self.progress, spent=self._seconds() if self.progress.position else 0.0)),
            "history": [asdict(record) for record in self.history],
            "terms": self.terms.state(),
            "journal_lines": self.journal.count,
            "looks": self.sanity_checks.state(),
        }
        return common | stepper.state(), stepper.own_state()

    def _restore(self, stepper: Stepper, state: dict[str, Any]) -> None:
        with self.checkpoints.restoring():
            stepper.load_state(state)
            self.progress = Progress(**state["progress"])
            if self.progress.best_state is not None:
                check_fit(stepper.student.state_dict(), self.progress.best_state, "best_state")
            if self.progress.position > len(self.feed) or self.progress.epoch > self.settings.epochs:
                raise InputError(f"it is in epoch {self.progress.epoch} at step {self.progress.position}")
            self.history = [EpochRecord(**record) for record in state["history"]]
            self.terms = TermLog(self.progress.epoch, state["terms"])
            self.own_states = state["own"] if self.progress.position else None
            self.sanity_checks.load_state(state["looks"])

    def _open_journal(self, lines: int) -> None:
        if self.out is not None and self.process_group.leads:
            self.out.mkdir(parents=True, exist_ok=True)
            self.journal = Journal(self.out / JOURNAL, keep=lines)

    def _result(self, stepper: Stepper) -> TrainingResult:
        last_state = _to_cpu(stepper.result_model)
        best_state = self.progress.best_state or last_state
        stepper.student.load_state_dict(best_state)
        for model in (stepper.student, stepper.trained_teacher):
            if model is not None:
                model.eval()
        return TrainingResult(
            self.task.method.info.name,
            self.history,
            self.progress.best_epoch,
            best_state,
            last_state,
            self.progress.seconds / 60,
            self.settings.seed,
            stepper.counter.totals,
            self.choices,
            provenance(self.device),
            self.sanity_checks.warnings,
        )


def blended(feed: Feed, train: object, settings: TrainingSettings) -> Feed:
    """Return the feed with blended batches.

    Raises:
        InputError: For a data loader, whose number of classes is not known, or images without labels.
    """
    if not isinstance(train, Images):
        raise InputError(
            f"blend was {settings.blend!r} with a data loader, which augments by itself: apply "
            "torchvision's v2.MixUp or v2.CutMix in it, and give soft labels."
        )
    if isinstance(train, MixedSet) and train.unlabelled:
        raise InputError(
            f"blend was {settings.blend!r} with images without labels, which no label can be blended with; set one of "
            "the two to none."
        )
    return BlendedFeed(feed, settings.blend, train.num_classes, settings.seed)


def _to_cpu(model: nn.Module) -> dict[str, Tensor]:
    # Contiguous: in channels_last the file of the weights would contain the run's memory layout.
    return {
        name: value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, value in model.state_dict().items()
    }
