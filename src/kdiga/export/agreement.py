"""Whether an exported file computes what the model computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kdiga.errors import InputError
from kdiga.export.formats import Logits
from kdiga.statistics import clopper_pearson

TOLERANCE = 1e-4
"""Of a logit, as a share of the largest one (or of 1): float32 sums in another order stay well below it."""
BATCH_SIZE = 250


@dataclass(frozen=True)
class OutputAgreement:
    """How near an exported file is to its model on some images.

    Args:
        largest_difference: of any logit.
        largest_logit: of the model, in absolute value: what the difference is to be seen against.
        same_class: for each image, whether both give the same class.
    """

    largest_difference: float
    largest_logit: float
    same_class: tuple[bool, ...]

    @property
    def share(self) -> float:
        """Share of images that both give the same class, in [0, 1]."""
        return sum(self.same_class) / len(self.same_class)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Clopper-Pearson interval of the share."""
        return clopper_pearson(sum(self.same_class), len(self.same_class))

    @property
    def is_close(self) -> bool:
        """Whether the difference is rounding; False for anything that is not finite."""
        return self.largest_difference <= TOLERANCE * max(1.0, self.largest_logit)


def logits_of(call: Logits, images: Tensor, batch_size: int = BATCH_SIZE) -> Tensor:
    """Return the logits (example, classes) of many images, float32 on the CPU.

    Args:
        call: maps images to logits.
        images: float (example, channel, height, width) in [0, 1].
        batch_size: images in one call.
    """
    with torch.no_grad():
        return torch.cat([call(part).detach().float().cpu() for part in images.split(batch_size)])


def agreement(of_file: Tensor, of_model: Tensor) -> OutputAgreement:
    """Compare logits (example, classes) of a file with those of its model, on the same images."""
    if of_file.shape != of_model.shape:
        raise InputError(
            f"the file returned logits of shape {tuple(of_file.shape)}, the model {tuple(of_model.shape)}."
        )
    same: Sequence[bool] = (of_file.argmax(1) == of_model.argmax(1)).tolist()
    return OutputAgreement(float((of_file - of_model).abs().max()), float(of_model.abs().max()), tuple(same))


def check_same(what: str, found: OutputAgreement) -> None:
    """Check that a file computes the model's function.

    Raises:
        InputError: if a logit differs by more than rounding, or is not finite.
    """
    if not found.is_close:
        raise InputError(
            f"the {what} file does not compute what the model does: a logit differs by {found.largest_difference:.3g}, "
            f"where the largest is {found.largest_logit:.3g} and {TOLERANCE:g} of it is allowed. Export to another "
            "format; the network uses something that this one translates differently."
        )
