"""A few steps looked at closely, for what lets a run go on to its end and come to nothing."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kdiga.distributed.process_group import ProcessGroup
from kdiga.errors import DivergedError, KdigaWarning
from kdiga.gradients.student_pass import saturated
from kdiga.model_state import evaluating

STEPS = (0, 8, 96, 192)  # looking waits for the device; multiples of 8, so that most `align_every` take their turn
MOST = 0.5  # the share of images above which a fault counts
JUDGED = 32  # images below which a teacher's accuracy says nothing
UNSTEADY = 1e-2  # of the largest logit; rounding depends on the size of a batch as well

OnWarning = Callable[[str], None]


class SanityChecks:
    """Notices vanishing input gradients, saturated logits and models in the wrong mode.

    What makes a run pointless ends it. The rest is told once, in one sentence, and kept with the result.

    Args:
        trains_through: whether the method trains through the student's input gradient.
        process_group: of processes; all make every call together, and the first one tells.
        tell: given each warning; None makes it a :class:`KdigaWarning`.
    """

    def __init__(self, *, trains_through: bool, process_group: ProcessGroup, tell: OnWarning | None) -> None:
        self.trains_through, self.process_group = trains_through, process_group
        self._tell = tell or _warn
        self.warnings: list[dict[str, Any]] = []
        self._flat = False

    def state(self) -> dict[str, Any]:
        """Return what an interrupted run has to remember, as plain data."""
        return {"warnings": self.warnings, "flat": self._flat}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state` returned; what was told is not told again."""
        self.warnings, self._flat = list(state["warnings"]), state["flat"]

    def due(self, number: int) -> list[Tensor] | None:
        """Return a list for the counts of step ``number``, from 0; None where nobody looks."""
        return [] if number in STEPS else None

    def check(self, number: int, counts: list[Tensor] | None) -> None:
        """Look at the counts of step ``number``.

        Raises:
            DivergedError: if the method trains through input gradients and they are all zero, for the second look
                running: a last layer that starts at zero has none at the first step.
        """
        if counts is None:
            return
        images, one_hot, sloped, flat = self._over_all(torch.stack(counts).sum(0))
        if one_hot > MOST * images:
            self.warn(
                "student-saturated",
                number,
                f"the student's logits are saturated at step {number + 1}: on {one_hot / images:.0%} of its images the "
                "softmax is exactly one-hot in float32, where the loss has no slope. Lower lr, or scale its logits "
                "down.",
            )
        if sloped:
            self._check_slopes(number, flat / sloped)

    def _check_slopes(self, number: int, share: float) -> None:
        again, self._flat = self._flat and share > MOST, share > MOST
        if not again:
            return
        told = (
            f"the student's input gradient is exactly zero on {share:.0%} of the images at step {number + 1}, so "
            "aligning it does nothing there: a hard clamp or rounding in its forward pass, dead activations, or "
            "saturated logits."
        )
        if share == 1 and self.trains_through:
            raise DivergedError(f"{told} Let the gradient through, or use a method that does not train through it.")
        self.warn("gradient-vanishes", number, f"{told} Let the gradient through.")

    def at_teacher(self, who: str, teacher: object, images: Tensor, labels: Tensor, logits: Tensor) -> None:
        """Look at a teacher that should know the classes already.

        Args:
            who: it is, in words.
            teacher: a module, or another source of signals.
            images: of the first batch.
            labels: theirs.
            logits: what it said of them.
        """
        right, extreme = (logits.argmax(1) == labels).sum(), saturated(logits).sum()
        unsteady = _changes(teacher, images, logits) if isinstance(teacher, nn.Module) else False
        counts = [float(part) for part in (len(labels), right, extreme, unsteady)]
        examples, right, extreme, unsteady = self._over_all(torch.tensor(counts, device=logits.device))
        chance = 1 / logits.shape[1]
        guessed = examples * chance + math.sqrt(examples * chance * (1 - chance))
        if examples >= JUDGED and right <= guessed:
            self.warn(
                f"{who}-guesses",
                0,
                f"the {who} is right on {right:.0f} of the first {examples:.0f} images, which guessing reaches: it has "
                "nothing to teach. Check its weights, its normalisation and the order of its classes.",
            )
        if extreme > MOST * examples:
            self.warn(
                f"{who}-saturated",
                0,
                f"the {who}'s logits are saturated: on {extreme / examples:.0%} of the first images its softmax is "
                "exactly one-hot in float32, so it says no more than a label and its input gradient is zero. Scale "
                "its logits down.",
            )
        if unsteady:
            self.warn(
                f"{who}-mode",
                0,
                f"the {who} says something else of an image in another batch: batch norm or dropout in it works as in "
                "training, although it is in eval mode. Let its forward pass heed eval().",
            )

    def warn(self, name: str, number: int, message: str) -> None:
        """Tell and keep a warning, unless one of that name was."""
        if any(one["name"] == name for one in self.warnings):
            return
        self.warnings.append({"name": name, "step": number + 1, "message": message})
        if self.process_group.leads:
            self._tell(message)

    def _over_all(self, counts: Tensor) -> list[float]:
        self.process_group.average([counts])
        return (counts * self.process_group.count).tolist()


def _changes(teacher: nn.Module, images: Tensor, logits: Tensor) -> bool:
    """Return whether a teacher says something else of a few images without the rest of their batch."""
    few = max(2, len(images) // 8)  # few: statistics of half a batch are close to those of the whole
    if few >= len(images):
        return False
    with torch.no_grad(), evaluating(teacher):
        alone = teacher(images[:few])
    return bool((alone - logits[:few]).abs().max() > UNSTEADY * logits.abs().max())


def _warn(message: str) -> None:
    # Of the caller's line, however deep in here the fault was seen.
    level, frame = 1, inspect.currentframe()
    while frame is not None and str(frame.f_globals.get("__name__")).startswith("kdiga."):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, KdigaWarning, stacklevel=level)
