"""The search for the worst image of a ball, on which every maximum of the analysis rests, and its scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kdiga.attacks import PGD
from kdiga.checks import check_logits
from kdiga.errors import InputError, check_at_least
from kdiga.losses import cross_entropy
from kdiga.model_output import logits_at
from kdiga.runs.fingerprints import printed
from kdiga.types import ThreatModel

LARGEST_STEP = 0.25

Score = Callable[[Tensor], Tensor]
"""Maps images (batch, channel, height, width) to one value per example, (batch,), which depends on its image only."""


@dataclass(frozen=True)
class WorstCaseSearch:
    """PGD from several random starts that returns the best image of all steps. It finds at most the true maximum.

    Raises:
        InputError: If steps or restarts is below 1, or the step is not in (0, 1/4].
    """

    steps: int = 40  # number of steps per start
    restarts: int = 3  # number of uniform random starts
    # Step size as a share of eps. Longer steps visit only the corners of the ball and miss a maximum that is inside it
    # in some pixels.
    step: float = 0.1

    def __post_init__(self) -> None:
        check_at_least(1, steps=self.steps, restarts=self.restarts)
        if not 0 < self.step <= LARGEST_STEP:
            raise InputError(f"step was {self.step!r}; it must be above 0 and at most {LARGEST_STEP}, a share of eps.")

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain data."""
        return {"steps": self.steps, "restarts": self.restarts, "step": self.step}

    def largest(self, objective: Score, images: Tensor, threat: ThreatModel) -> tuple[Tensor, Tensor]:
        """Return the largest values (batch,) in the ball that the search finds, detached, and their images.

        Images are float (batch, channel, height, width), in the ball and in [0, 1]; the given images count too. The
        random stream of the caller decides the starts.
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

    def largest_absolute(self, objective: Score, images: Tensor, threat: ThreatModel) -> tuple[Tensor, Tensor]:
        """Return the largest absolute value in the ball that the search finds, and its images.

        An absolute value has two basins, above and below zero, and an ascent stays in the basin of its start. So the
        search covers both signs from all starts.
        """
        above, up = self.largest(objective, images, threat)
        below, down = self.largest(lambda adv_images: -objective(adv_images), images, threat)
        lower = below > above
        up[lower] = down[lower]
        return torch.where(lower, below, above), up


class Differentiable(nn.Module):
    """A model with the same logits, and with an input gradient of zero if the model has none.

    A model that ignores or rounds its input has logits without a graph, for which autograd raises an error.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def __repr__(self) -> str:
        return f"connected({printed(self.model)})"  # the fingerprint contains no class name of kdiga

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of the model."""
        return logits_at(self.model, images) + 0 * images.flatten(1).sum(1, keepdim=True)


def loss_score(model: nn.Module, labels: Tensor) -> Score:
    """Return the cross-entropy of a model with int64 labels (batch,), in nats, as a score.

    The softmax is taken in float64: in float32 the probability of a confident answer rounds to 1, and its part of the
    gradient to 0. The score raises InputError for logits that are not finite.
    """
    differentiable = Differentiable(model)

    def score(images: Tensor) -> Tensor:
        logits = check_logits(differentiable(images), images)
        return cross_entropy(logits.double(), labels).to(logits.dtype)

    return score
