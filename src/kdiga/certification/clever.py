"""CLEVER (Weng et al., 2018, arXiv 1801.10578): an estimate of the radius within which a label cannot change.

If ``||grad (f_c - f_j)||_q <= L_j`` everywhere in a ball of radius R, a perturbation shorter than
``(f_c - f_j)(x) / L_j``, and than R, leaves class c ahead of class j (Hein and Andriushchenko, 2017, theorem 2.1). The
smallest of these radii over the classes would be a proof, were L_j known. Here it is estimated from random points,
which find the gradients that an adversary looks for only by chance: an estimate, not a lower bound (Goodfellow, 2018,
arXiv 1804.07870).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdiga.certification.certificate import as_numbers, certified_accuracy, curve_of
from kdiga.certification.class_scores import ClassScores, class_scores
from kdiga.certification.lipschitz import Lipschitz, Sampling, estimate_lipschitz
from kdiga.certification.weibull import REACH
from kdiga.errors import InputError
from kdiga.model_state import device_of, evaluating, frozen_parameters
from kdiga.runs.work_units import OnProgress, ResultCache
from kdiga.types import ThreatModel

SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Clever:
    """Estimated radii of one model.

    Args:
        sampling: norm, largest radius and points.
        radius: one an example; 0.0 where the model is wrong, None where a fit that matters failed.
        p_value: of the fit of the class that decides an example's radius; None where there is none, as where
            the maxima are one number.
        wrong: misclassified examples.
        failed: right ones without a radius.
    """

    sampling: Sampling
    radius: Sequence[float | None]
    p_value: Sequence[float | None]
    wrong: int
    failed: int

    @property
    def correct(self) -> tuple[bool, ...]:
        """For each example, whether the model is right."""
        return tuple(radius != 0.0 for radius in self.radius)

    def accuracy(self, radius: float) -> float:
        """Return the share of all examples that are right with an estimated radius of at least ``radius``."""
        return certified_accuracy(self.radius, radius)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        fitted = [p for p in self.p_value if p is not None]
        return {
            "norm": self.sampling.ball.norm,
            "max_radius": self.sampling.ball.eps,
            "batches": self.sampling.batches,
            "batch_size": self.sampling.batch_size,
            "radius": as_numbers(self.radius),
            "failed": self.failed,
            "wrong": self.wrong,
            "goodness": {
                "median_p": statistics.median(fitted) if fitted else None,
                "rejected_share": sum(p < SIGNIFICANT for p in fitted) / len(fitted) if fitted else None,
                "fits": len(fitted),
            },
            "curve": curve_of(self.radius, self.sampling.ball.eps),
        }


def clever(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    norm: str = "linf",
    max_radius: float | str = 8 / 255,
    batches: int = 100,
    batch_size: int = 25,
    seed: int = 0,
    points: int | None = None,
    folder: Path | None = None,
    progress: OnProgress | None = None,
) -> Clever:
    """Estimate for each example the radius within which its label cannot change.

    Points are drawn uniformly from the ball and clipped to [0, 1]; all classes share them. The Lipschitz constant of a
    margin is the location of a reverse Weibull fit of its batches' largest gradient norms
    (:mod:`kdiga.certification.weibull`). Where these are one number up to rounding the margin is taken to be linear
    in the ball, and the number is the constant. Where a fit fails, its class is set aside only if
    it could not decide the radius at twice the largest norm seen; else the example has no radius.

    Args:
        model: maps images to logits (batch, num_classes), where its parameters are. It is run in eval mode and left
            as found.
        images: float (example, channel, height, width), pixels in [0, 1].
        labels: int (example,).
        norm: "linf" or "l2".
        max_radius: of the ball, in pixels in [0, 1]; no radius is above it.
        batches: maxima of each fit, at least 5.
        batch_size: points of each maximum.
        seed: of the points.
        points: that go through the network together; None chooses by device.
        folder: where finished portions are kept and shared between processes; None keeps none.
        progress: called with "clever", examples done and examples to do.

    Raises:
        InputError: for settings out of range, and as :func:`kdiga.certification.class_scores.class_scores`.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> with torch.no_grad():
    ...     _ = model[1].weight.copy_(torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 1.0]])), model[1].bias.zero_()
    >>> image = torch.tensor([0.5, 0.5, 0.5, 0.4]).view(1, 1, 2, 2)  # a margin of 0.1, a slope of 2
    >>> [round(radius, 3) for radius in clever(model, image, torch.tensor([0]), max_radius=0.1).radius]
    [0.05]
    """
    sampling = Sampling(ThreatModel.parse(norm, max_radius), batches, batch_size, seed)
    device = device_of(model, images.device)
    images, labels = images.to(device), labels.to(device)
    with evaluating(model), frozen_parameters(model):
        answers = class_scores(model, images, labels)
        (found,) = estimate_lipschitz(
            [model],
            images,
            answers.labels,
            answers.correct.cpu(),
            answers.num_classes - 1,
            sampling,
            points=points,
            result_cache=ResultCache(folder),
            progress=progress,
        )
    return radii_of(answers, found, sampling)


def radii_of(answers: ClassScores, found: Lipschitz, sampling: Sampling) -> Clever:
    """Return the radii that margins and Lipschitz constants give.

    Args:
        answers: the model's, whose right ones were looked at.
        found: its constants.
        sampling: how they were found.

    Raises:
        InputError: if no gradient was found anywhere.
    """
    correct = answers.correct.cpu()
    if bool(correct.any()) and not bool(found.largest[correct].any()):
        raise InputError(
            "every input gradient of the model's margins was exactly zero: it ignores its input, or hides its "
            "gradients (rounding, saturation). CLEVER cannot judge it; use smoothing, or attacks without gradients."
        )
    margins = answers.margins.detach().double().cpu()
    radius, p_value = list[float | None](), list[float | None]()
    for row in range(len(margins)):
        if not correct[row]:
            radius.append(0.0)
            p_value.append(None)
            continue
        limit, place = smallest_ratio(margins[row], found.location[row], found.largest[row], sampling.ball.eps)
        radius.append(limit)
        p = math.nan if place is None else float(found.p_value[row, place])
        p_value.append(None if math.isnan(p) else p)
    return Clever(sampling, tuple(radius), tuple(p_value), int((~correct).sum()), sum(r is None for r in radius))


def smallest_ratio(margins: Tensor, constants: Tensor, largest: Tensor, most: float) -> tuple[float | None, int | None]:
    """Return the smallest margin in units of its Lipschitz constant, at most ``most``, and which class decides.

    Args:
        margins: (num_classes - 1,) of an example that is right.
        constants: (num_classes - 1,), NaN where unknown.
        largest: (num_classes - 1,): what an unknown constant is at least.
        most: the radius of the ball.

    Returns:
        The radius, None if an unknown constant, at up to twice what it is at least, might decide it; the place of the
        deciding class, None if no class is known.
    """
    # A zero constant is no knowledge: the points found no gradient at all, and a radius would be infinite.
    known = constants > 0
    ratios = torch.where(known, margins / constants, torch.inf)
    place = int(ratios.argmin()) if bool(known.any()) else None
    limit = min(float(ratios.amin()), most)
    doubtful = torch.where(largest > 0, margins / (REACH * largest), 0.0)[~known]
    if bool((doubtful < limit).any()):
        return None, None
    return limit, place
