"""The search for the worst image of a ball: what every measure here that says "maximum" rests on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from kdiga.analysis.scores import Score
from kdiga.attacks import PGD
from kdiga.errors import InputError
from kdiga.types import ThreatModel

LARGEST_STEP = 0.25


@dataclass(frozen=True)
class WorstCaseSearch:
    """PGD from several random starts that keeps the best image it saw. What it finds is at most the true maximum.

    Args:
        steps: of each ascent.
        restarts: ascents, each from a uniform start of its own.
        step: length of a step as a share of eps. Longer ones visit the corners of the ball alone, and where
            the maximum is inside, in some pixels, they jump over it.

    Raises:
        InputError: for fewer than 1 step or restart, or a step that is not in (0, 1/4].
    """

    steps: int = 40
    restarts: int = 3
    step: float = 0.1

    def __post_init__(self) -> None:
        for name in ("steps", "restarts"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} was {getattr(self, name)!r}; it must be at least 1.")
        if not 0 < self.step <= LARGEST_STEP:
            raise InputError(f"step was {self.step!r}; it must be above 0 and at most {LARGEST_STEP}, a share of eps.")

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain data."""
        return asdict(self)

    def largest(self, objective: Score, images: Tensor, threat: ThreatModel) -> tuple[Tensor, Tensor]:
        """Return the largest value found in the ball, and where; the image itself is among those looked at.

        Random starts come from the caller's stream.

        Args:
            objective: what to maximise.
            images: float (batch, channel, height, width), pixels in [0, 1].
            threat: the ball, eps above 0.

        Returns:
            tuple[Tensor, Tensor]: values (batch,), detached, and images within the ball and in [0, 1].
        """
        attack = PGD(threat=threat, steps=self.steps, step_size=self.step * threat.eps, keep_best=True)
        found = images.detach().clone()
        with torch.no_grad():
            values = objective(found)
        for _ in range(self.restarts):
            adv_images = attack(objective, images)
            with torch.no_grad():
                better = (reached := objective(adv_images)) > values
            values = torch.where(better, reached, values)
            found[better] = adv_images[better]
        return values, found

    def farthest(self, objective: Score, images: Tensor, threat: ThreatModel) -> tuple[Tensor, Tensor]:
        """Return the largest absolute value found in the ball, and where.

        An absolute value has two basins, one above zero and one below, and an ascent on it stays in the one it
        starts in. So each side is searched for itself, from all starts.
        """
        above, up = self.largest(objective, images, threat)
        below, down = self.largest(lambda adv_images: -objective(adv_images), images, threat)
        lower = below > above
        up[lower] = down[lower]
        return torch.where(lower, below, above), up
