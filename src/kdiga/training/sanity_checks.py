"""Checks of the first batch and of a few early steps, for faults that make a run useless without stopping it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdiga.checks import (
    ENOUGH,
    are_probabilities,
    check_logits,
    check_same_classes,
    check_targets,
    guesses_of,
    probabilities_of,
)
from kdiga.distributed.process_group import ProcessGroup
from kdiga.errors import DivergedError, warn
from kdiga.gradients.student_pass import saturated
from kdiga.methods.context import Teacher
from kdiga.model_output import logits_at
from kdiga.model_state import evaluating
from kdiga.models import Classifier
from kdiga.statistics import percent
from kdiga.types import Batch

STEPS = (0, 8, 96, 192)  # few, since a check waits for the device; multiples of 8 include steps of most `align_every`
MOST = 0.5  # fraction of images above which a fault counts
SURE = 0.9  # share of right answers above which a teacher's preprocessing is right
PREPROCESSED = 64  # images on which other preprocessings are tried
UNSTEADY = 1e-2  # relative to the largest logit; rounding depends on the batch size, too
TEACHERS = ("teacher", "second teacher")

OnWarning = Callable[[str], None]


class SanityChecks:
    """Detects vanishing input gradients, saturated logits and models in the wrong mode.

    A fault that makes the run useless ends it. Other faults give one warning each, which the result contains, too.

    Args:
        trains_through: Whether the method trains through the student's input gradient.
        process_group: Processes of the run. All make every call together, and the first one warns.
        on_warning: Called with each warning; None makes it a :class:`KdigaWarning`.
    """

    def __init__(self, *, trains_through: bool, process_group: ProcessGroup, on_warning: OnWarning | None) -> None:
        self.trains_through, self.process_group = trains_through, process_group
        self._on_warning = on_warning or warn
        self.warnings: list[dict[str, Any]] = []
        self._flat = False  # whether input gradients vanished at the last check

    def state(self) -> dict[str, Any]:
        """Return the state of the checks, as plain data."""
        return {"warnings": self.warnings, "flat": self._flat}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from the result of :meth:`state`, without a second warning of a name."""
        self.warnings, self._flat = list(state["warnings"]), state["flat"]

    def due(self, number: int) -> list[Tensor] | None:
        """Return a list for the counts of step ``number``, from 0; None for a step without checks."""
        return [] if number in STEPS else None

    def check(self, number: int, counts: list[Tensor] | None) -> None:
        """Check the counts of step ``number``.

        Raises:
            DivergedError: If the method trains through input gradients, and all are zero in two checks in a row. A
                last layer that starts at zero has zero input gradients at the first step.
        """
        if counts is None:
            return
        images, one_hot, with_gradient, flat = self._sum_over_processes(torch.stack(counts).sum(0))
        if one_hot > MOST * images:
            self.warn(
                "student-saturated",
                number,
                f"the student's logits are saturated at step {number + 1}: on {percent(one_hot / images, 0)} of its "
                "images the softmax is exactly one-hot in float32, where the loss has no slope. Lower lr, or scale its "
                "logits down.",
            )
        if with_gradient:
            self._check_gradients(number, flat / with_gradient)

    def _check_gradients(self, number: int, share: float) -> None:
        again, self._flat = self._flat and share > MOST, share > MOST
        if not again:
            return
        fault = (
            f"the student's input gradient is exactly zero on {percent(share, 0)} of the images at step {number + 1}, "
            "so aligning it does nothing there: a hard clamp or rounding in its forward pass, dead activations, or "
            "saturated logits."
        )
        if share == 1 and self.trains_through:
            raise DivergedError(f"{fault} Let the gradient through, or use a method that does not train through it.")
        self.warn("gradient-vanishes", number, f"{fault} Let the gradient through.")

    def at_teacher(self, who: str, teacher: object, images: Tensor, labels: Tensor, logits: Tensor) -> None:
        """Check a teacher that is trained already."""
        labels = labels.argmax(1) if labels.dim() == 2 else labels
        right, extreme = (logits.argmax(1) == labels).sum(), saturated(logits).sum()
        unsteady = _changes(teacher, images, logits) if isinstance(teacher, nn.Module) else False
        counts = [float(part) for part in (len(labels), (labels >= 0).sum(), right, extreme, unsteady)]
        summed = self._sum_over_processes(torch.tensor(counts, device=logits.device))
        examples, labelled, right, extreme, unsteady = summed
        if (guesses := guesses_of(who, right, labelled, logits.shape[1])) is not None:
            self.warn(f"{who}-guesses", 0, guesses)
        elif isinstance(teacher, nn.Module) and labelled >= ENOUGH and right < SURE * labelled:
            self._check_preprocessing(who, teacher, images[:PREPROCESSED], labels[:PREPROCESSED])
        if extreme > MOST * examples:
            self.warn(
                f"{who}-saturated",
                0,
                f"the {who}'s logits are saturated: on {percent(extreme / examples, 0)} of the first images its "
                "softmax is exactly one-hot in float32, so it says no more than a label and its input gradient is "
                "zero. Scale its logits down.",
            )
        if unsteady:
            self.warn(
                f"{who}-mode",
                0,
                f"the {who} gives an image other logits in another batch: batch norm or dropout in it works as in "
                "training, although it is in eval mode. Make its forward pass respect eval().",
            )

    def _check_preprocessing(self, who: str, teacher: nn.Module, images: Tensor, labels: Tensor) -> None:
        """Warn if a teacher is much better with normalised images; a classifier states its own normalisation."""
        from kdiga.analysis.preprocessing import preprocessing_finding  # it needs SciPy's statistics

        if isinstance(teacher, Classifier):
            return
        finding = preprocessing_finding(teacher, images, labels)
        if finding.verdict == "failed":
            self.warn(f"{who}-preprocessing", 0, f"the {who} is {finding.message}")

    def warn(self, name: str, number: int, message: str) -> None:
        """Give a warning and record it, unless there was one of that name."""
        if any(one["name"] == name for one in self.warnings):
            return
        self.warnings.append({"name": name, "step": number + 1, "message": message})
        if self.process_group.leads:
            self._on_warning(message)

    def _sum_over_processes(self, counts: Tensor) -> list[float]:
        self.process_group.average([counts])
        return (counts * self.process_group.count).tolist()


def _changes(teacher: nn.Module, images: Tensor, logits: Tensor) -> bool:
    """Return whether a teacher has other logits for a few images without the rest of their batch."""
    few = max(2, len(images) // 8)  # statistics of half a batch would be close to those of the batch
    if few >= len(images):
        return False
    with torch.no_grad(), evaluating(teacher):
        alone = logits_at(teacher, images[:few])
    return bool((alone - logits[:few]).abs().max() > UNSTEADY * logits.abs().max())


def check_first_batch(
    student: nn.Module,
    teachers: Sequence[nn.Module | Teacher],
    trained_teacher: nn.Module | None,
    batch: Batch,
    sanity_checks: SanityChecks,
    *,
    parts: int = 1,
) -> None:
    """Check that labels and models fit each other, and that each teacher can teach.

    Args:
        student: Student, in train mode.
        teachers: Teachers, in order.
        trained_teacher: Teacher that is trained with the student.
        batch: First batch, on the models' device.
        sanity_checks: Checks that give the warnings.
        parts: Number of parts of a batch that the training computes one after another. The whole batch may need too
            much memory, so the models run on one part.

    Raises:
        InputError: If labels are out of range, a teacher has other classes, or logits are not finite.
    """
    images, labels = (values[: -(-len(values) // parts)] for values in (batch.images, batch.labels))
    with torch.no_grad(), evaluating(student):
        logits = check_logits(logits_at(student, images), images, who="student")
    _warn_of_probabilities(sanity_checks, "student", logits)
    check_targets(batch.labels, batch.images, logits.shape[1])
    for place, teacher in enumerate(teachers):
        if isinstance(teacher, nn.Module):
            with torch.no_grad(), evaluating(teacher):
                teacher_logits = logits_at(teacher, images)
        else:
            teacher_logits = teacher.logits(batch)[: len(images)]
        check_logits(teacher_logits, images, who=TEACHERS[place])
        check_same_classes(logits, teacher_logits)
        _warn_of_probabilities(sanity_checks, TEACHERS[place], teacher_logits)
        # A teacher that is trained with the student has not learnt yet.
        if teacher is not trained_teacher:
            sanity_checks.at_teacher(TEACHERS[place], teacher, images, labels, teacher_logits)


def _warn_of_probabilities(sanity_checks: SanityChecks, who: str, logits: Tensor) -> None:
    if are_probabilities(logits):
        sanity_checks.warn(f"{who}-probabilities", 0, probabilities_of(who))
