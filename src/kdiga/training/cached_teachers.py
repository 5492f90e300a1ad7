"""Stored teachers in training: what a run asks of a store, and the live teacher that fills one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from kdiga.data import FileSet, ImageSet, MixedSet, augmentation_by_name
from kdiga.errors import InputError
from kdiga.losses import Score
from kdiga.methods import Needs
from kdiga.methods.context import Teacher
from kdiga.runs.fingerprints import fingerprint_of_images
from kdiga.teachers import CachedTeacher, OnlineTeacher
from kdiga.teachers.build import TeacherSource
from kdiga.training.runtime import Runtime
from kdiga.training.settings import TrainingSettings
from kdiga.types import Batch, TeacherSignal

REMEDY = "fill one for this run with `kdiga cache RECIPE`, in another cache.folder or with --overwrite"


def conditions(train: ImageSet | FileSet, needs: Needs, settings: TrainingSettings) -> dict[str, Any]:
    """Return what a run asks of a store, by the manifest's keys: all that the teacher's signals depend on but itself.

    Args:
        train: the training images, what is held out for validation left out.
        needs: of the method.
        settings: of the run.
    """
    return {
        "data": fingerprint_of_images(train),
        "examples": len(train),
        "image_shape": train.image_shape,
        "num_classes": train.num_classes,
        "seed": settings.seed,
        "augmentation": augmentation_by_name(settings.augment, train.image_size).key(),
        "gradient_of": needs.gradient_of if needs.teacher_gradient else None,
        "precision": settings.precision,
    }


def stored_views(
    teachers: Sequence[nn.Module | Teacher], train: object, needs: Needs, settings: TrainingSettings
) -> int | None:
    """Return how many views of each example the stored teachers know; None if all of them are live.

    Raises:
        InputError: if a store holds signals of other images, views or gradients than the run will ask for.
    """
    stored = [(place, one) for place, one in enumerate(teachers) if isinstance(one, CachedTeacher)]
    if not stored:
        return None
    if isinstance(train, MixedSet):
        raise InputError("a teacher cache holds no signals of extra training images; leave out one or the other.")
    if not isinstance(train, (ImageSet, FileSet)):
        raise InputError(
            "a teacher cache was given with a data loader, which augments by itself; give an ImageSet or the live "
            "model."
        )
    wanted = conditions(train, needs, settings)
    for place, one in stored:
        asked = wanted if place == 0 else wanted | {"gradient_of": None}
        one.store.manifest.check(asked, one.store.folder, REMEDY)
    return min(one.store.manifest.views for _, one in stored)


def live_source(
    teacher: nn.Module, train: ImageSet | FileSet, gradient_of: Score | None, settings: TrainingSettings
) -> TeacherSource:
    """Return what fills a store: the teacher on the device, in the layout and precision of a run.

    Args:
        teacher: moved to the device.
        train: the training images, what is held out for validation left out.
        gradient_of: of which number of an example the input gradient is wanted; None for logits alone.
        settings: of the run.
    """
    runtime = Runtime(settings)
    live = OnlineTeacher(runtime.place(teacher), gradient_of is not None, gradient_of or "loss")

    def teach(batch: Batch) -> TeacherSignal:
        with runtime.autocast():
            return live(replace(batch, images=runtime.images(batch.images)))

    return TeacherSource(train.to(runtime.device), augmentation_by_name(settings.augment, train.image_size), teach)
