"""The function that trains a student."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from kdiga.arguments import checked
from kdiga.checks import images_and_labels
from kdiga.data import Images, ImageSet
from kdiga.methods import Method, method_by_name, method_class
from kdiga.methods.context import Teacher
from kdiga.out_of_memory import out_of_memory_as_error
from kdiga.progress_bar import OnTask, progress_of
from kdiga.training.loop import OnChoice, OnEpoch, OnStep, TrainingCallbacks, TrainingLoop
from kdiga.training.result import TrainingResult
from kdiga.training.sanity_checks import OnWarning
from kdiga.training.settings import TrainingSettings
from kdiga.training.stepper import TrainingTask
from kdiga.training.teacher_sources import teachers_of
from kdiga.training.validation import hold_out, validation_subset
from kdiga.types import ThreatModel

TrainingData = Images | tuple[Tensor, Tensor] | Iterable[tuple[Tensor, Tensor]]


@checked
def distill(
    student: nn.Module,
    teacher: nn.Module | Teacher | None,
    train: TrainingData,
    *,
    method: str | Mapping[str, Any] | Method = "kdiga",
    epochs: int,
    second_teacher: nn.Module | None = None,
    threat: ThreatModel | str | None = None,
    validation: ImageSet | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    on_step: OnStep | None = None,
    on_epoch: OnEpoch | None = None,
    on_choice: OnChoice | None = None,
    on_warning: OnWarning | None = None,
    progress: bool | None = None,
    **settings: Any,
) -> TrainingResult:
    """Train a student. Afterwards it has the weights that were best on the validation set.

    Args:
        student: Model that maps images in [0, 1] to logits. It is trained in place and is in eval mode afterwards.
            Student and teacher are moved to the run's device.
        teacher: Robust model of the same classes, not changed otherwise; or another source of signals, such as
            stored ones; None for methods without a teacher. A method that trains a guide or peer takes this model and
            trains it in place.
        train: An :class:`kdiga.ImageSet`; images on disk or with extra images, from :func:`kdiga.load_data` and
            :class:`kdiga.data.MixedSet`; a pair of tensors, float images of shape (example, channel, height, width) in
            [0, 1] and int labels; or a data loader of such batches, which must augment its images itself.
        method: Name that ``kdiga methods`` lists, a configured method such as
            ``kdiga.methods.KDIGA(gradient_weight=2)``, or a mapping as in a recipe:
            ``{"name": "kdiga", "gradient_weight": 2}``.
        epochs: Number of epochs, at least 1.
        second_teacher: Second teacher, usually a naturally trained one, for methods with two teachers.
        threat: Threat model that the student should withstand: a :class:`kdiga.ThreatModel`, or text such as
            "linf 8/255", which is the default.
        validation: Images that choose the best checkpoint; None holds ``validation_share`` of ``train`` out, by seed.
            A loader cannot be split: without validation images its best checkpoint is the last.
        out: Folder for journal and state; None writes nothing. The state stays after the run, because the weights are
            then only in memory: ``resume`` gives the same result at once.
        resume: Whether to continue the interrupted run in ``out``.
        on_step: Called after each step with the number of steps so far and in all.
        on_epoch: Called after each epoch with its record.
        on_choice: Called before the first step with the name of each "auto" setting, its chosen value and the reason.
        on_warning: Called with the text of each warning about a fault that makes a run useless without stopping it: a
            teacher that guesses, saturated logits, a model in the wrong mode. None makes it a
            :class:`kdiga.KdigaWarning`. The result contains the warnings, too.
        progress: True for a bar, or lines in a log; False for none; None for a bar where stderr is a terminal or the
            code runs in a notebook.
        settings: Fields of :class:`kdiga.TrainingSettings`: lr, batch_size, seed, augment, ...; and options of the
            method, such as ``gradient_weight=2``.

    Raises:
        InputError: If a method or setting is unknown, data and models do not fit each other, a teacher is missing, the
            method queries stored signals at generated images, or the logits of a model have no gradient by its images.
        OutOfMemoryError: If memory runs out; the message says what to reduce.
        DivergedError: If a term is not finite; or in the second half, if the student is no better than guessing and
            its loss does not fall, unless ``stop_at_chance`` is False. The message names the term. Also if the method
            trains through input gradients and all of them are exactly zero.
    """
    kind = method_class(method)
    names = [one.name for one in fields(kind)]  # pyright: ignore[reportArgumentType]
    options = {name: settings.pop(name) for name in names if name in settings}
    configured = TrainingSettings.from_keywords(epochs, settings, f"option of method {kind.info.name!r}", names)
    chosen = method_by_name(method, options)
    teachers = teachers_of(chosen, teacher, second_teacher)
    task = TrainingTask(student, teachers, chosen, ThreatModel.of(threat))
    if isinstance(train, tuple):
        train = ImageSet.of(*images_and_labels(train))
    if validation is None and isinstance(train, Images):
        train, held_out = hold_out(train, configured)
        validation = validation_subset(held_out, configured.validation_examples)
    with progress_of(progress, "distill") as on_progress, out_of_memory_as_error(_what_to_reduce(chosen, configured)):
        callbacks = TrainingCallbacks(_both(on_step, on_progress), on_epoch, on_choice, on_warning)
        loop = TrainingLoop(task, train, validation, configured, None if out is None else Path(out), callbacks)
        return loop.run(resume=resume)


def _both(on_step: OnStep | None, on_progress: OnTask | None) -> OnStep | None:
    """Return a function that calls both with a step."""
    if on_progress is None:
        return on_step

    def call(done: int, total: int) -> None:
        on_progress("steps", done, total)
        if on_step is not None:
            on_step(done, total)

    return call


def _what_to_reduce(method: Method, settings: TrainingSettings) -> str:
    """Return the advice for a run that needs more memory than there is."""
    parts = settings.accumulate * 2
    accumulate = (
        f"set training.accumulate to {parts}, which splits each batch and gives the same result (an interrupted run "
        "may continue with it by --resume), or "
    )
    if method.needs.couples_batch or settings.batch_size % parts:
        accumulate = ""
    return f"batches of {settings.batch_size} images were too large; {accumulate}reduce training.batch_size."
