"""A live model as a source of signals."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from kdiga.gradients import input_gradient_and_logits
from kdiga.modes import evaluating
from kdiga.types import Batch, TeacherSignal


@dataclass(frozen=True)
class OnlineTeacher:
    """Asks a model for its logits and, if wanted, the input gradient of its cross-entropy.

    The model runs in eval mode and is left as found: weights, gradients, mode, statistics.

    Args:
        model: maps images in [0, 1] to logits.
        gradient: whether the method needs the input gradient.
    """

    model: nn.Module
    gradient: bool

    def __call__(self, batch: Batch) -> TeacherSignal:
        """Return the teacher's signal at the batch's images."""
        with evaluating(self.model):
            if self.gradient:
                gradient, logits = input_gradient_and_logits(self.model, batch.images, batch.labels)
                return TeacherSignal(logits, gradient)
            with torch.no_grad():
                return TeacherSignal(self.model(batch.images), None)
