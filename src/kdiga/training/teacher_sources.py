"""The teachers of a run, live or stored, and the source of the signals in a store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from kdiga.data import FileSet, ImageSet, MixedSet, augmentation_by_name
from kdiga.errors import InputError
from kdiga.losses import Score
from kdiga.methods import Method, Needs
from kdiga.methods.context import Teacher
from kdiga.runs.fingerprints import fingerprint_of_images
from kdiga.teachers import CachedTeacher, OnlineTeacher
from kdiga.teachers.fill import TeacherSource
from kdiga.training.runtime import Runtime
from kdiga.training.settings import TrainingSettings
from kdiga.types import Batch, TeacherSignal

REMEDY = "fill one for this run with `kdiga cache RECIPE`, in another cache.folder or with --overwrite"


def teachers_of(
    method: Method, teacher: nn.Module | Teacher | None, second_teacher: nn.Module | Teacher | None
) -> list[nn.Module | Teacher]:
    """Return the given teachers that a method uses, in order.

    Raises:
        InputError: If there are too few teachers, or stored signals for a method that queries its teacher at generated
            images or trains its teacher.
    """
    name, needs = method.info.name, method.needs
    if needs.teachers >= 1 and teacher is None:
        raise InputError(f"method {name!r} needs a teacher and none was given; pass a robust model.")
    if needs.teachers == 2 and second_teacher is None:
        raise InputError(
            f"method {name!r} needs a second teacher and none was given; pass second_teacher, a natural model."
        )
    used = [one for one in (teacher, second_teacher)[: needs.teachers] if one is not None]
    for one in used:
        if needs.teacher_queries and not isinstance(one, nn.Module) and not one.answers_queries:
            raise InputError(
                f"method {name!r} queries the teacher on perturbed images and was given stored signals, which are of "
                "clean images only; give the live model, or a method that needs no queries (see kdiga methods)."
            )
    if needs.trains_teacher and not isinstance(used[0], nn.Module):
        raise InputError(f"method {name!r} trains its teacher and was given stored signals; give a model.")
    return used


def teacher_source(teacher: nn.Module | Teacher, needs: Needs, *, first: bool) -> Teacher:
    """Return a teacher as a source of signals; only the first teacher computes input gradients."""
    if isinstance(teacher, CachedTeacher):
        return replace(teacher, gradient=needs.teacher_gradient and first)
    if not isinstance(teacher, nn.Module):
        return teacher
    return OnlineTeacher(teacher, needs.teacher_gradient and first, needs.gradient_of)


def check_batch_for_stores(teachers: Sequence[Teacher | None], labels: Tensor | None, index: Tensor | None) -> None:
    """Check that stores can answer for a batch: they know rows by index, and input gradients at the data's labels.

    Raises:
        InputError: If they cannot.
    """
    stored = [one for one in teachers if isinstance(one, CachedTeacher)]
    if stored and index is None:
        raise InputError(
            "index was not given and the teacher is a cache, which finds its rows by it; pass the examples' rows in "
            "the cached training images, integers of shape (batch,)."
        )
    if any(one.gradient for one in stored) and (labels is None or labels.dim() == 2):
        raise InputError(
            f"labels were {'None' if labels is None else 'probabilities'} and the teacher is a cache, whose input "
            "gradients are at the data's labels; pass those, integers of shape (batch,), or give the live model."
        )


def conditions(train: ImageSet | FileSet, needs: Needs, settings: TrainingSettings) -> dict[str, Any]:
    """Return what a run needs of a store, by the manifest's keys: all that the teacher's signals depend on.

    Raises:
        InputError: If the run blends images, which depend on their batch.
    """
    if settings.blend != "none":
        raise InputError(
            f"blend was {settings.blend!r} and the teacher is a cache, which holds no signals of blended images; give "
            "the live model, or set training.blend to none."
        )
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
    """Return the number of views of each example in the stores; None if all teachers are live.

    Raises:
        InputError: If a store holds signals of other images, views or gradients than the run needs.
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
    """Return the source of a store's signals: the teacher on the device, in the layout and precision of a run."""
    runtime = Runtime(settings)
    live = OnlineTeacher(runtime.place(teacher), gradient_of is not None, gradient_of or "loss")

    def teach(batch: Batch) -> TeacherSignal:
        with runtime.autocast():
            return live(replace(batch, images=runtime.images(batch.images)))

    return TeacherSource(train.to(runtime.device), augmentation_by_name(settings.augment, train.image_size), teach)
