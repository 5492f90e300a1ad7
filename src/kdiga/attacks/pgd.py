"""Projected gradient ascent (Madry et al., 2018): the inner attack of training and evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from kdiga.arguments import check_fields
from kdiga.attacks.balls import ascend, project, uniform_start
from kdiga.distributed import batch_shards
from kdiga.errors import InputError
from kdiga.gradients.input_gradient import gradient_by_images
from kdiga.types import ThreatModel

Start = Literal["uniform", "near", "clean"]


@dataclass(frozen=True, kw_only=True)
class PGD:
    """Maximise a per-example objective over a threat model's ball.

    Args:
        threat: Norm and eps.
        steps: Number of gradient steps, at least 1.
        step_size: Step length in pixels in [0, 1]; None is eps for one step, eps / 4 for several.
        start: "uniform" in the ball, "near" (``x + 0.001 N(0, 1)``, as in TRADES) or "clean".
        allow_large_steps: Whether to accept a step size above eps with several steps; otherwise it is an error,
            as if the two were swapped.
        keep_best: Whether to return each example's iterate with the highest objective, start included, for one
            more forward pass; otherwise the last iterate.

    Raises:
        InputError: for fewer than 1 step, a step size that is not positive, or one above eps with
            several steps (the sign of two swapped arguments).

    >>> attack = PGD(threat=ThreatModel("linf", 0.1), steps=10)
    >>> attack(lambda images: images.flatten(1).sum(1), torch.full((1, 1, 1, 2), 0.5))
    tensor([[[[0.6000, 0.6000]]]])
    """

    threat: ThreatModel
    steps: int = 10
    step_size: float | None = None
    start: Start = "uniform"
    allow_large_steps: bool = False
    keep_best: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        if self.steps < 1 or self.steps != int(self.steps):
            raise InputError(f"steps was {self.steps!r}; it must be a whole number of at least 1.")
        if self.step_size is None:
            return
        if not self.step_size > 0:
            raise InputError(f"step_size was {self.step_size!r}; it must be above 0, in pixels in [0, 1].")
        if self.steps > 1 and self.step_size > self.threat.eps and not self.allow_large_steps:
            raise InputError(
                f"step_size was {self.step_size:g}, larger than eps {self.threat.eps:g}; with several steps it must "
                "be at most eps. Did you swap the two? If not, set allow_large_steps=True."
            )

    def __call__(self, objective: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """Return adversarial images, detached, within the ball around ``images`` and in [0, 1].

        Args:
            objective: Differentiable function from images to one value per example, shape (batch,).
            images: Float (batch, channel, height, width), pixels in [0, 1].
        """
        images = images.detach()
        step_size = self.step_size or (self.threat.eps if self.steps == 1 else self.threat.eps / 4)
        adv_images = self._start(images)
        best = _Best(images) if self.keep_best else None
        for _ in range(self.steps):
            adv_images.requires_grad_()
            with torch.enable_grad():
                values = objective(adv_images)
                gradient = gradient_by_images(values, adv_images)
            adv_images = adv_images.detach()
            if best is not None:
                best.offer(adv_images, values.detach())
            adv_images = project(ascend(adv_images, gradient, step_size, self.threat), images, self.threat)
        if best is None:
            return adv_images
        with torch.no_grad():
            best.offer(adv_images, objective(adv_images))
        return best.images

    def _start(self, images: Tensor) -> Tensor:
        if self.start == "uniform":
            return uniform_start(images, self.threat)
        if self.start == "near":
            return project(images + 0.001 * batch_shards.current_shard().normal(images), images, self.threat)
        return images.clone()


class _Best:
    """For each example, the image with the highest value so far; a value that is not a number is the highest."""

    def __init__(self, images: Tensor) -> None:
        self.images = images.clone()
        self.values = torch.full((len(images),), -torch.inf, device=images.device)

    def offer(self, images: Tensor, values: Tensor) -> None:
        values = torch.where(values.isnan(), torch.inf, values)
        better = values > self.values
        self.images = torch.where(better.view(-1, *[1] * (images.dim() - 1)), images, self.images)
        self.values = torch.where(better, values.to(self.values.dtype), self.values)
