"""The training loop: one method, one student, perhaps a teacher, batches; it knows no more than that."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from kdiga.checks import check_labels, check_same_classes
from kdiga.data import Feed, ImageSet, augmentation_by_name, feed_of, split
from kdiga.errors import DivergedError
from kdiga.gradients import route_by_name
from kdiga.methods import Method, method_by_name
from kdiga.modes import evaluating, seeded
from kdiga.provenance import provenance
from kdiga.step import Step, Teacher
from kdiga.training.guard import TermLog, check_above_chance
from kdiga.training.journal import Journal
from kdiga.training.optimization import build_optimizer, build_schedule, clip
from kdiga.training.passes import PassCounter
from kdiga.training.result import EpochRecord, TrainingResult
from kdiga.training.runtime import Runtime
from kdiga.training.settings import TrainingSettings
from kdiga.training.state import load_state, remove_state, save_state
from kdiga.training.stored import stored_views
from kdiga.training.teaching import source_of, teachers_of
from kdiga.training.validation import Scores, Validator
from kdiga.types import Batch, Objective, ThreatModel

TrainingData = ImageSet | tuple[Tensor, Tensor] | Iterable[tuple[Tensor, Tensor]]
OnStep = Callable[[int, int], None]
OnEpoch = Callable[[EpochRecord], None]


def distill(
    student: nn.Module,
    teacher: nn.Module | Teacher | None,
    train: TrainingData,
    *,
    method: str | Method = "kdiga",
    epochs: int,
    second_teacher: nn.Module | None = None,
    threat: ThreatModel | None = None,
    validation: ImageSet | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    on_step: OnStep | None = None,
    on_epoch: OnEpoch | None = None,
    **settings: Any,
) -> TrainingResult:
    """Train a student, and leave it holding the weights that were best on the validation set.

    Args:
        student: maps images in [0, 1] to logits; trained in place, in eval mode afterwards. It and the
            teacher are moved to the run's device.
        teacher: a robust model of the same classes, otherwise left as found; or another source of signals,
            such as stored ones; None for methods without one. Methods that train a guide or peer along
            take it from here and train it in place.
        train: an :class:`kdiga.ImageSet`; a pair of tensors, float images (example, channel, height,
            width) in [0, 1] and int labels; or a data loader of such batches, augmented by itself.
        method: a name that ``kdiga methods`` lists, or a configured method such as
            ``KDIGA(gradient_weight=2)``.
        epochs: at least 1.
        second_teacher: for methods that learn from two, usually the naturally trained one.
        threat: what the student should withstand; Linf 8/255 if None.
        validation: chooses the best checkpoint; None cuts ``validation_share`` from ``train`` by seed.
            A loader cannot be cut: without this, its best checkpoint is the last.
        out: folder for journal, resumable state; None writes nothing.
        resume: continue the interrupted run in ``out``.
        on_step: called after each step with steps done and steps in all.
        on_epoch: called after each epoch with its record.
        settings: fields of :class:`kdiga.TrainingSettings`: lr, batch_size, seed, augment, ...

    Raises:
        InputError: for an unknown method or setting, data or models that do not fit each other, a
            teacher too few, or stored signals for a method that asks at images of its own making.
        DivergedError: if a term is not finite or the student ends no better than guessing; it names
            the term.
    """
    configured = TrainingSettings.from_keywords(epochs, settings)
    chosen = method_by_name(method)
    teachers = teachers_of(chosen, teacher, second_teacher)
    threat = threat or ThreatModel()
    if isinstance(train, tuple):
        train = ImageSet.of(*cast("tuple[Tensor, Tensor]", train))
    if validation is None and isinstance(train, ImageSet):
        train, validation = split(train, configured.validation_share, configured.seed)
    run = _Run(student, teachers, train, validation, chosen, threat, configured)
    return run.to_the_end(None if out is None else Path(out), resume=resume, on_step=on_step, on_epoch=on_epoch)


@dataclass
class _Progress:
    """What changes during a run and has to survive an interruption."""

    epoch: int = 0
    best_epoch: int = 0
    best_score: float = -1.0
    best_state: dict[str, Tensor] | None = None
    seconds: float = 0.0


class _Run:
    def __init__(
        self,
        student: nn.Module,
        teachers: list[nn.Module | Teacher],
        train: ImageSet | Iterable[tuple[Tensor, Tensor]],
        validation: ImageSet | None,
        method: Method,
        threat: ThreatModel,
        settings: TrainingSettings,
    ) -> None:
        self.settings, self.method, self.threat = settings, method, threat
        self.runtime = Runtime(settings)
        self.student = self.runtime.place(student)
        self.teachers = [self.runtime.place(one) if isinstance(one, nn.Module) else one for one in teachers]
        self.teacher_models = [one for one in self.teachers if isinstance(one, nn.Module)]
        self.trained_teacher = self.teacher_models[0] if method.needs.trains_teacher else None
        size = train.image_size if isinstance(train, ImageSet) else 32
        self.views = stored_views(teachers, train, method.needs, settings)
        self.feed: Feed = feed_of(
            train, batch_size=settings.batch_size, seed=settings.seed, device=self.runtime.device,
            augmentation=augmentation_by_name(settings.augment, size), views=self.views,
        )  # fmt: skip
        self.validator = None if validation is None else Validator(
            validation, threat, settings.validation_steps, settings.validation_examples, settings.seed
        )  # fmt: skip
        self.steps = len(self.feed) * settings.epochs
        trained = [self.student] if self.trained_teacher is None else [self.student, self.trained_teacher]
        self.parameters = [p for model in trained for p in model.parameters() if p.requires_grad]
        self.optimizer = build_optimizer(self.parameters, settings)
        self.schedule = build_schedule(self.optimizer, settings, self.steps)
        self.sources = [source_of(one, method.needs, first=not place) for place, one in enumerate(self.teachers)]
        self.route = route_by_name(settings.route)
        self.counter, self.memory = PassCounter(self.student, self.teacher_models), dict[str, Any]()
        self.progress, self.history = _Progress(), list[EpochRecord]()

    def to_the_end(
        self, out: Path | None, *, resume: bool, on_step: OnStep | None, on_epoch: OnEpoch | None
    ) -> TrainingResult:
        journal = self._restore(out, resume=resume)
        try:
            with seeded(self.settings.seed, -1):
                self._check_first_batch()
            while self.progress.epoch < self.settings.epochs:
                record = self._epoch(self.progress.epoch, on_step)
                self.history.append(record)
                journal.write(asdict(record))
                self.progress.epoch += 1
                if on_epoch is not None:
                    on_epoch(record)
                self._save(out, journal)
        except DivergedError as error:
            journal.write({"diverged": str(error)})
            raise
        finally:
            for model in (self.student, *self.teacher_models):
                model.to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]
        if out is not None:
            remove_state(out)
        return self._result()

    def _check_first_batch(self) -> None:
        batch = next(iter(self.feed.epoch(0)))
        batch = replace(batch, images=self.runtime.images(batch.images))
        with torch.no_grad(), evaluating(self.student):
            logits = self.student(batch.images)
        check_labels(batch.labels, batch.images, logits.shape[1])
        for source in self.sources:
            check_same_classes(logits, source.logits(batch))

    def _epoch(self, epoch: int, on_step: OnStep | None) -> EpochRecord:
        started = time.perf_counter()
        self.student.train()
        if self.trained_teacher is not None:
            self.trained_teacher.train()
        log = TermLog(epoch)
        # Everything random in an epoch comes from (seed, epoch), so a resumed run repeats it.
        with seeded(self.settings.seed, epoch), self.counter.counting():
            for number, batch in enumerate(self.feed.epoch(epoch)):
                done = epoch * len(self.feed) + number
                log.add(self._step(batch, done / max(1, self.steps - 1)))
                if on_step is not None:
                    on_step(done + 1, self.steps)
        log.check()
        scores = self._validate(epoch, log)
        seconds = time.perf_counter() - started
        self.progress.seconds += seconds
        return EpochRecord(
            epoch, self.optimizer.param_groups[0]["lr"], log.means(), log.weights,
            scores and scores.clean, scores and scores.robust, round(seconds, 2),
        )  # fmt: skip

    def _step(self, batch: Batch, progress: float) -> Objective:
        batch = replace(batch, images=self.runtime.images(batch.images))
        first, second = (*self.sources, None, None)[:2]
        needs = self.method.needs
        step = Step(
            batch, self.student, first, self.threat, self.route, needs.student_gradient, progress,
            second_teach=second, trained_teacher=self.trained_teacher, gradient_of=needs.gradient_of,
            attack_batch_norm=self.settings.attack_batch_norm,
            alignment_batch_norm=self.settings.alignment_batch_norm, memory=self.memory,
        )  # fmt: skip
        self.optimizer.zero_grad(set_to_none=True)
        with self.runtime.autocast():
            objective = self.method(step)
            total = objective.total()
        # Only the parameters: images that ask for a gradient would cost one more pass to the input.
        self.runtime.accelerator.backward(total, inputs=self.parameters)
        clip(self.parameters, self.settings.grad_clip)
        self.optimizer.step()
        self.schedule.step()
        return objective

    def _validate(self, epoch: int, log: TermLog) -> Scores | None:
        last = epoch + 1 == self.settings.epochs
        if self.validator is None:
            self._keep(epoch, float(epoch))
            return None
        if not last and (epoch + 1) % self.settings.validate_every:
            return None
        scores = self.validator(self.student, epoch)
        # Early on a slow start and a collapse look alike; half-way through they do not.
        if last or epoch + 1 >= self.settings.epochs / 2:
            correct = round(scores.clean * scores.examples)
            shares = self.validator.class_shares()
            check_above_chance(correct, scores.examples, shares, epoch, terms=log.means(), weights=log.weights)
        self._keep(epoch, scores.by(self.settings.select))
        return scores

    def _keep(self, epoch: int, score: float) -> None:
        # Of equal scores the later one: it has been trained longer at a lower rate.
        if score >= self.progress.best_score:
            self.progress.best_epoch, self.progress.best_score = epoch, score
            self.progress.best_state = _to_cpu(self.student)

    def _identity(self) -> dict[str, str | None]:
        own = {"method": repr(self.method), "threat": repr(self.threat), "settings": repr(self.settings)}
        return {**own, "stored views": str(self.views) if self.views else None}

    def _save(self, out: Path | None, journal: Journal) -> None:
        if out is not None:
            save_state(
                out,
                {
                    "identity": self._identity(),
                    "student": self.student.state_dict(),
                    "trained_teacher": self.trained_teacher and self.trained_teacher.state_dict(),
                    "memory": self.memory,
                    "passes": self.counter.totals,
                    "optimizer": self.optimizer.state_dict(),
                    "schedule": self.schedule.state_dict(),
                    "progress": vars(self.progress),
                    "history": [asdict(record) for record in self.history],
                    "journal_lines": journal.count,
                },
            )

    def _restore(self, out: Path | None, *, resume: bool) -> Journal:
        if out is None:
            return Journal(None)
        out.mkdir(parents=True, exist_ok=True)
        state = load_state(out, self._identity()) if resume else None
        if state is None:
            return Journal(out / "journal.jsonl")
        self.student.load_state_dict(state["student"])
        if self.trained_teacher is not None:
            self.trained_teacher.load_state_dict(state["trained_teacher"])
        self.memory, self.counter.totals = state["memory"], state["passes"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.progress = _Progress(**state["progress"])
        self.history = [EpochRecord(**record) for record in state["history"]]
        return Journal(out / "journal.jsonl", keep=state["journal_lines"])

    def _result(self) -> TrainingResult:
        last_state = _to_cpu(self.student)
        best_state = self.progress.best_state or last_state
        self.student.load_state_dict(best_state)
        for model in (self.student, self.trained_teacher):
            if model is not None:
                model.eval()
        return TrainingResult(
            self.method.info.name, self.history, self.progress.best_epoch, best_state, last_state,
            self.progress.seconds / 60, self.settings.seed, dict(self.counter.totals), provenance(self.runtime.device),
        )  # fmt: skip


def _to_cpu(model: nn.Module) -> dict[str, Tensor]:
    # Contiguous: a best state in channels_last would carry the run's memory layout into the file.
    return {
        name: value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, value in model.state_dict().items()
    }
