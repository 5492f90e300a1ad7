"""Checks of a batch, made where data enters the library and never in an inner loop."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from kdiga.errors import InputError

IGNORED = -100  # label of an example without a label, as PyTorch's ignore_index
ROUNDING = 1e-6  # distance of a pixel from [0, 1] that filters and resizing cause
IMAGE_KEYS = ("pixel_values", "images", "image", "img", "inputs", "input", "x")
LABEL_KEYS = ("labels", "label", "targets", "target", "y")


def images_and_labels(batch: object) -> tuple[Any, Any]:
    """Return the images and labels of a loader's batch: the first two entries, or those of a dict by their usual names.

    Raises:
        InputError: For a batch of another form.
    """
    if isinstance(batch, Mapping):
        entries = cast("Mapping[Any, Any]", batch)
        images, labels = (next((one for one in keys if one in entries), None) for keys in (IMAGE_KEYS, LABEL_KEYS))
        if images is not None and labels is not None:
            return entries[images], entries[labels]
        form = f"a dict of {', '.join(map(repr, entries)) or 'nothing'}"
    elif isinstance(batch, (tuple, list)) and len(cast("Sequence[Any]", batch)) >= 2:
        images, labels = cast("Sequence[Any]", batch)[:2]
        return images, labels
    else:
        form = f"a {type(batch).__name__}"
    raise InputError(
        f"a batch was {form}; it must be a pair of images and labels, or a dict with 'images' or 'pixel_values' and "
        "'labels'. For two tensors give [(images, labels)], for an ImageSet its batches()."
    )


def check_tensor(value: object, what: str) -> None:
    """Check that a value is a tensor.

    Raises:
        InputError: For arrays, lists and anything else.
    """
    if not isinstance(value, Tensor):
        raise InputError(
            f"{what} were {type(value).__name__}; they must be a tensor. Use torch.as_tensor for an array."
        )


def check_images(images: Tensor, *, values: bool = True) -> None:
    """Check that images are float (batch, channel, height, width) with pixels in [0, 1].

    Args:
        images: Input of a model.
        values: Whether to check the pixels too; on a GPU this waits for the device.

    Raises:
        InputError: for another rank, type or range.
    """
    check_tensor(images, "images")
    if images.dim() != 4:
        raise InputError(
            f"images had shape {tuple(images.shape)}; they must be (batch, channel, height, width). "
            "Add the missing dimension with images[None] or images[:, None]."
        )
    if not images.is_floating_point():
        raise InputError(
            f"images were {images.dtype}; they must be floating point with pixels in [0, 1]. Divide bytes by 255."
        )
    if values and len(images):
        low, high = (float(value) for value in images.detach().aminmax())
        if not (low >= -ROUNDING and high <= 1 + ROUNDING):
            raise InputError(
                f"images had pixels in [{low:.6g}, {high:.6g}]; they must be in [0, 1]. "
                "Normalise inside the model, not in the data, so that eps means the same for every model."
            )


def check_labels(labels: Tensor, images: Tensor, num_classes: int | None = None) -> None:
    """Check that labels are integers, one per image, and in [0, ``num_classes``) if this is given.

    Raises:
        InputError: for another shape, type or range.
    """
    check_tensor(labels, "labels")
    if labels.dim() != 1 or len(labels) != len(images):
        raise InputError(
            f"labels had shape {tuple(labels.shape)} for {len(images)} images; they must be (batch,), one per image."
        )
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise InputError(f"labels were {labels.dtype}; they must be integers in [0, num_classes). Use labels.long().")
    if num_classes is not None and len(labels):
        low, high = (int(value) for value in labels.aminmax())
        if low < 0 or high >= num_classes:
            raise InputError(
                f"labels were in [{low}, {high}]; the model has {num_classes} classes, so they must be in "
                f"[0, {num_classes - 1}]. Renumber them from 0, or build the model with num_classes={high + 1}."
            )


def check_targets(labels: Tensor, images: Tensor, num_classes: int | None = None) -> Tensor:
    """Return the labels of a loss as int64 or probabilities, checked as by :func:`check_labels`; -100 is no label.

    Raises:
        InputError: for another shape, type or range, or rows that are not probabilities.
    """
    check_tensor(labels, "labels")
    if labels.dim() != 2 or not labels.is_floating_point():
        check_labels(labels, images)
        if num_classes is not None:
            known = labels[labels != IGNORED]
            check_labels(known, known, num_classes)
        return labels.long()
    if len(labels) != len(images) or (num_classes is not None and labels.shape[1] != num_classes):
        classes = "" if num_classes is None else f" of {num_classes} classes"
        raise InputError(
            f"labels had shape {tuple(labels.shape)} for {len(images)} images{classes}; soft labels must be "
            "(batch, num_classes), one row per image."
        )
    if num_classes is not None and not bool(((labels >= 0).all(1) & ((labels.sum(1) - 1).abs() < 1e-2)).all()):
        raise InputError(
            "labels were (batch, num_classes) with rows that are not probabilities; each value must be at least 0 and "
            "each row have the sum 1. Use softmax(1) for logits."
        )
    return labels


def check_same_classes(student_logits: Tensor, teacher_logits: Tensor) -> None:
    """Check that teacher and student have the same number of classes.

    Raises:
        InputError: for different numbers.
    """
    if student_logits.shape[-1] != teacher_logits.shape[-1]:
        raise InputError(
            f"the student has {student_logits.shape[-1]} classes and the teacher {teacher_logits.shape[-1]}; they "
            "must have the same, in the same order. Build the student with the teacher's num_classes."
        )


def check_logits(
    logits: Tensor, images: Tensor, *, who: str = "model", least_classes: int = 1, values: bool = True
) -> Tensor:
    """Return the logits of images, after a check of their shape and, if ``values`` is set, of their values.

    Raises:
        InputError: If they are not finite, (batch, num_classes), one row per image.
    """
    if logits.dim() != 2 or len(logits) != len(images) or logits.shape[1] < least_classes:
        raise InputError(
            f"the {who} returned shape {tuple(logits.shape)} for {len(images)} images; it must be (batch, num_classes) "
            f"logits, num_classes at least {least_classes}."
        )
    if values and not bool(logits.isfinite().all()):
        raise InputError(
            f"the {who} returned logits that are not finite; its weights are damaged or diverged, or it divides by "
            "zero. Give other weights."
        )
    return logits


PROBABILITY = 1e-3  # largest distance of a softmax's values from [0, 1], and of their sum from 1


def are_probabilities(logits: Tensor) -> bool:
    """Return whether a model's outputs are a probability distribution for every image, as after a softmax."""
    values = logits.detach().float()
    inside = (values > -PROBABILITY).all() and (values < 1 + PROBABILITY).all()
    return len(values) > 0 and bool(inside and ((values.sum(1) - 1).abs() < PROBABILITY).all())


def probabilities_of(who: str) -> str:
    """Return the warning that a model returns probabilities."""
    return (
        f"the {who} returns probabilities, not logits, so the loss takes a second softmax and its gradients are far "
        "too small. Take the softmax out of its forward pass, or return their logarithm."
    )


def check_distinct(student: nn.Module, teacher: object) -> None:
    """Check that student and teacher are two models.

    Raises:
        InputError: If they are one module.
    """
    if student is teacher:
        raise InputError(
            "the student and the teacher are the same module, so there is nothing to learn; give another "
            "model, or a copy, copy.deepcopy(student)."
        )


ENOUGH = 32  # images below which a teacher's accuracy shows nothing


def guesses_of(who: str, right: float, labelled: float, num_classes: int) -> str | None:
    """Return the warning that a teacher is right on no more labelled images than by guessing; None if it is on more."""
    chance = 1 / num_classes
    if labelled < ENOUGH or right > labelled * chance + math.sqrt(labelled * chance * (1 - chance)):
        return None
    return (
        f"the {who} is right on {right:.0f} of the first {labelled:.0f} images, no better than guessing: it has "
        "nothing to teach. Check its weights, its normalisation and the order of its classes."
    )


def check_examples(images: Tensor, labels: Tensor) -> None:
    """Check images and labels as :func:`check_images` and :func:`check_labels`, and that there is at least one."""
    check_images(images)
    check_labels(labels, images)
    if not len(images):
        raise InputError("the data was empty; give at least one image with its label.")
