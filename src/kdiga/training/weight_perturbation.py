"""Adversarial weight perturbation (Wu, Xia, Wang, 2020, arXiv:2004.05884), for every method."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import nn

SMALLEST = 1e-20  # norm of a gradient that counts as zero


class WeightPerturbation:
    """Moves weights to where the method's own objective is larger; the step's gradient is taken there.

    With ``g`` the gradient of the objective by a weight tensor ``w``, ``w + size * ||w|| * g / ||g||``: one ascent step
    whose length is relative to the tensor's norm. As in the authors' code, only tensors of two or more dimensions
    move, not biases and norms. The objective has its gradient at the images that attacks found for the unperturbed
    weights, and the teachers' answers are used again. Batch norm's running statistics move at the perturbed weights
    alone.

    Args:
        student: Student; the weights of a teacher that is trained along stay.
        size: Length of the step relative to the norm of a tensor, the paper's gamma.
    """

    def __init__(self, student: nn.Module, size: float) -> None:
        self.size = size
        self._weights = [one for one in student.parameters() if one.requires_grad and one.dim() > 1]

    @contextmanager
    def applied(self) -> Generator[None]:
        """Perturb the weights inside along their present ``grad``, and restore them at the end."""
        before = [weight.detach().clone() for weight in self._weights]
        with torch.no_grad():
            for weight in self._weights:
                if weight.grad is not None:
                    length = self.size * weight.norm() / weight.grad.norm().clamp_min(SMALLEST)
                    weight.add_(weight.grad * length)
        try:
            yield
        finally:
            with torch.no_grad():
                for weight, value in zip(self._weights, before, strict=True):
                    weight.copy_(value)
