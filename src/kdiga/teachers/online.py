"""A live model as a source of signals."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kdiga.gradients.input_gradient import gradient_by_images
from kdiga.gradients.student_pass import Forward
from kdiga.losses import Score, score_by_name
from kdiga.model_state import evaluating, frozen_parameters
from kdiga.types import Batch, TeacherSignal


@dataclass(frozen=True)
class OnlineTeacher:
    """Asks a model for its logits and, if wanted, the input gradient of its cross-entropy.

    The model runs in eval mode and is left as found: weights, gradients, mode, statistics.

    Args:
        model: maps images in [0, 1] to logits.
        gradient: whether the method needs the input gradient.
        gradient_of: of which number of an example it is taken.
        compiled: the model's forward, compiled; None runs the module.
    """

    model: nn.Module
    gradient: bool
    gradient_of: Score = "loss"
    compiled: Forward | None = None

    @property
    def answers_queries(self) -> bool:
        """Always: the model is here."""
        return True

    def __call__(self, batch: Batch) -> TeacherSignal:
        """Return the teacher's signal at the batch's images."""
        if not self.gradient:
            return TeacherSignal(self.logits(batch), None)
        images = batch.images.detach().requires_grad_()
        with torch.enable_grad(), self._asked():
            logits = self._forward(images)
            gradient = gradient_by_images(score_by_name(self.gradient_of)(logits, batch.labels), images)
        return TeacherSignal(logits.detach(), gradient)

    def logits(self, batch: Batch) -> Tensor:
        """Return the logits at the batch's images, without the input gradient."""
        return self.at(batch.images.detach())

    def at(self, images: Tensor) -> Tensor:
        """Return logits at any images, with a graph to the images if they ask for one."""
        with self._asked(), torch.set_grad_enabled(images.requires_grad and torch.is_grad_enabled()):
            return self._forward(images)

    @property
    def _forward(self) -> Forward:
        return self.compiled or self.model

    @contextmanager
    def _asked(self) -> Generator[None]:
        # Frozen parameters: a compiled backward pass would form their gradients too, and an eager one
        # would keep what those need. Nobody wants them here, even where the teacher is trained along.
        with evaluating(self.model), frozen_parameters(self.model):
            yield
