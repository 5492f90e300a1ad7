"""What the first batch shows before the first step: whether data and models fit, and whether a teacher can teach."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from kdiga.checks import check_labels, check_same_classes
from kdiga.errors import InputError
from kdiga.model_state import all_in_eval_mode, evaluating
from kdiga.training.sanity_checks import SanityChecks
from kdiga.training.stepper import Stepper
from kdiga.types import Batch

PLACES = ("teacher", "second teacher")


def check_first_batch(stepper: Stepper, batch: Batch, sanity_checks: SanityChecks) -> None:
    """Check that labels and models fit each other, and look at the models.

    Args:
        stepper: of the run, with models that are left as they are, but for the student's mode.
        batch: the first one.
        sanity_checks: told what is suspicious.

    Raises:
        InputError: for labels out of range, teachers of other classes, or logits that are not finite.
    """
    batch = replace(batch, images=stepper.runtime.images(batch.images))
    # No more at once than a step takes: the whole batch may be too much for the memory.
    images, labels = (part[: -(-len(part) // stepper.settings.accumulate)] for part in (batch.images, batch.labels))
    with torch.no_grad(), evaluating(stepper.student):
        logits = stepper.student(images)
    _check_finite("student", logits)
    check_labels(batch.labels, batch.images, logits.shape[1])
    stepper.train_mode()
    if all_in_eval_mode(stepper.student) and not stepper.settings.freeze:
        sanity_checks.warn(
            "student-mode",
            0,
            "the student's batch norm and dropout stay in eval mode while it is trained, so they do not do their work: "
            "its train() does not reach them. If that is meant, name what is frozen in freeze.",
        )
    for place, teacher in enumerate(stepper.teachers):
        if isinstance(teacher, nn.Module):
            with torch.no_grad(), evaluating(teacher):
                said = teacher(images)
        else:
            said = teacher.logits(batch)[: len(images)]
        check_same_classes(logits, said)
        _check_finite(PLACES[place], said)
        # One that is trained along knows nothing yet.
        if teacher is not stepper.trained_teacher:
            sanity_checks.at_teacher(PLACES[place], teacher, images, labels, said)


def _check_finite(who: str, logits: Tensor) -> None:
    if not logits.isfinite().all():
        raise InputError(
            f"the {who} returned logits that are not finite before the first step; its weights are damaged, or it "
            "divides by zero. Give other weights."
        )
