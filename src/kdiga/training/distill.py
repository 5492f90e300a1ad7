"""One call that trains a student: what it takes, and the run that it makes of that."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from kdiga.data import Images, ImageSet, split
from kdiga.methods import Method, method_by_name
from kdiga.methods.context import Teacher
from kdiga.out_of_memory import out_of_memory_as_error
from kdiga.training.loop import OnChoice, OnEpoch, OnStep, TrainingLoop
from kdiga.training.peak_memory import what_to_reduce
from kdiga.training.result import TrainingResult
from kdiga.training.sanity_checks import OnWarning
from kdiga.training.settings import TrainingSettings
from kdiga.training.teacher_sources import teachers_of
from kdiga.training.validation import validation_subset
from kdiga.types import ThreatModel

TrainingData = Images | tuple[Tensor, Tensor] | Iterable[tuple[Tensor, Tensor]]


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
    on_choice: OnChoice | None = None,
    on_warning: OnWarning | None = None,
    **settings: Any,
) -> TrainingResult:
    """Train a student, and leave it holding the weights that were best on the validation set.

    Args:
        student: maps images in [0, 1] to logits; trained in place, in eval mode afterwards. It and the
            teacher are moved to the run's device.
        teacher: a robust model of the same classes, otherwise left as found; or another source of signals,
            such as stored ones; None for methods without one. Methods that train a guide or peer along
            take it from here and train it in place.
        train: an :class:`kdiga.ImageSet`, or images on disk or with extra ones as :func:`kdiga.load_data` and
            :class:`kdiga.data.MixedSet` have them; a pair of tensors, float images (example, channel, height,
            width) in [0, 1] and int labels; or a data loader of such batches, augmented by itself.
        method: a name that ``kdiga methods`` lists, or a configured method such as
            ``KDIGA(gradient_weight=2)``.
        epochs: at least 1.
        second_teacher: for methods that learn from two, usually the naturally trained one.
        threat: what the student should withstand; Linf 8/255 if None.
        validation: chooses the best checkpoint; None cuts ``validation_share`` from ``train`` by seed.
            A loader cannot be cut: without this, its best checkpoint is the last.
        out: folder for journal and resumable state, which stays when the run has ended, for the weights are only in
            memory then: ``resume`` gives the same result at once. None writes nothing.
        resume: continue the interrupted run in ``out``.
        on_step: called after each step with steps done and steps in all.
        on_epoch: called after each epoch with its record.
        on_choice: called before the first step with the name of each setting that was chosen here, and
            what was chosen and why.
        on_warning: called with a sentence, once, about what lets a run go on and come to nothing: a teacher that
            guesses, saturated logits, a model in the wrong mode. None makes it a :class:`kdiga.KdigaWarning`.
            The result holds them too.
        settings: fields of :class:`kdiga.TrainingSettings`: lr, batch_size, seed, augment, ...

    Raises:
        InputError: for an unknown method or setting, data or models that do not fit each other, a
            teacher too few, stored signals for a method that asks at images of its own making, or a model whose
            logits have no gradient by its images.
        OutOfMemoryError: saying what to reduce.
        DivergedError: if a term is not finite or the student ends no better than guessing, naming the term; or if
            the method trains through input gradients and all of them stay exactly zero.
    """
    configured = TrainingSettings.from_keywords(epochs, settings)
    chosen = method_by_name(method)
    teachers = teachers_of(chosen, teacher, second_teacher)
    threat = threat or ThreatModel()
    if isinstance(train, tuple):
        train = ImageSet.of(*cast("tuple[Tensor, Tensor]", train))
    if validation is None and isinstance(train, Images):
        train, held_out = split(train, configured.validation_share, configured.seed)
        validation = validation_subset(held_out, configured.validation_examples)
    run = TrainingLoop(student, teachers, train, validation, chosen, threat, configured, on_warning)
    folder = None if out is None else Path(out)
    with out_of_memory_as_error(what_to_reduce(chosen, configured)):
        return run.to_the_end(folder, resume=resume, on_step=on_step, on_epoch=on_epoch, on_choice=on_choice)
