"""A live model as a source of signals."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kdiga.gradients import input_gradient_and_logits
from kdiga.losses import Score
from kdiga.modes import evaluating
from kdiga.types import Batch, TeacherSignal


@dataclass(frozen=True)
class OnlineTeacher:
    """Asks a model for its logits and, if wanted, the input gradient of its cross-entropy.

    The model runs in eval mode and is left as found: weights, gradients, mode, statistics.

    Args:
        model: maps images in [0, 1] to logits.
        gradient: whether the method needs the input gradient.
        gradient_of: of which number of an example it is taken.
    """

    model: nn.Module
    gradient: bool
    gradient_of: Score = "loss"

    @property
    def answers_queries(self) -> bool:
        """Always: the model is here."""
        return True

    def __call__(self, batch: Batch) -> TeacherSignal:
        """Return the teacher's signal at the batch's images."""
        if not self.gradient:
            return TeacherSignal(self.logits(batch), None)
        with evaluating(self.model):
            gradient, logits = input_gradient_and_logits(self.model, batch.images, batch.labels, self.gradient_of)
        return TeacherSignal(logits, gradient)

    def logits(self, batch: Batch) -> Tensor:
        """Return the logits at the batch's images, without the input gradient."""
        return self.at(batch.images.detach())

    def at(self, images: Tensor) -> Tensor:
        """Return logits at any images, with a graph to the images if they ask for one."""
        with evaluating(self.model), torch.set_grad_enabled(images.requires_grad and torch.is_grad_enabled()):
            return self.model(images)
