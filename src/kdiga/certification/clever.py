"""CLEVER (Weng et al., 2018, arXiv 1801.10578): an estimate of the radius within which a label cannot change.

If ``||grad (f_c - f_j)||_q <= L_j`` everywhere in a ball of radius R, then class c stays ahead of class j for every
perturbation shorter than ``(f_c - f_j)(x) / L_j`` and than R (Hein and Andriushchenko, 2017, theorem 2.1). With exact
``L_j`` the smallest of these radii over all classes j is proved. CLEVER estimates ``L_j`` from random points, which
find the steepest gradients only by chance: the result is an estimate, not a lower bound (Goodfellow, 2018, arXiv
1804.07870).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdiga.certification.certificate import Certificate, Radii, accuracy_curve
from kdiga.certification.class_scores import ClassScores, class_scores
from kdiga.certification.lipschitz import LipschitzEstimates, Sampling, estimate_lipschitz
from kdiga.certification.weibull import REACH
from kdiga.checks import check_same_classes
from kdiga.errors import InputError
from kdiga.model_state import device_of, evaluating, frozen_parameters
from kdiga.runs.work_units import OnProgress
from kdiga.statistics import median_known
from kdiga.types import ThreatModel

SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Clever(Certificate):
    """Estimated radii of one model."""

    sampling: Sampling  # norm, largest radius and sampled points
    radius: Radii  # radius of each example; 0.0 for a wrong answer, None if a fit that matters failed
    p_value: Radii  # P-value of the fit of the class that decides the radius of each example; None without a fit
    wrong: int  # number of misclassified examples
    failed: int  # number of correctly classified examples without a radius

    @property
    def correct(self) -> tuple[bool, ...]:
        """Whether each example is classified correctly."""
        return tuple(radius != 0.0 for radius in self.radius)

    def to_dict(self) -> dict[str, Any]:
        """Return all results as plain data."""
        fitted = [p for p in self.p_value if p is not None]
        return {
            "norm": self.sampling.ball.norm,
            "max_radius": self.sampling.ball.eps,
            "batches": self.sampling.batches,
            "batch_size": self.sampling.batch_size,
            "radius": list(self.radius),
            "failed": self.failed,
            "wrong": self.wrong,
            "goodness": {
                "median_p": median_known(fitted),
                "rejected_share": sum(p < SIGNIFICANT for p in fitted) / len(fitted) if fitted else None,
                "fits": len(fitted),
            },
            "curve": accuracy_curve(self.radius, self.sampling.ball.eps),
        }


def clever(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    norm: str = "linf",
    max_radius: float | str = 8 / 255,
    points: int | None = None,
    folder: Path | None = None,
    progress: OnProgress | None = None,
    **settings: int,
) -> Clever:
    """Estimate the radius of each example within which its label cannot change.

    Points are uniform in the ball and clipped to [0, 1]; all classes share them. The Lipschitz constant of a margin is
    the location of a reverse Weibull fit of the largest gradient norms of the batches
    (:mod:`kdiga.certification.weibull`). If these norms are equal up to rounding, the margin counts as linear in the
    ball, and the norm is the constant. If a fit fails, its class is left out if it cannot decide the radius even at
    twice the largest norm; else the example has no radius.

    Args:
        model: Maps images to logits (batch, num_classes). It runs in eval mode on its own device; its modes and
            parameters do not change.
        images: Float (example, channel, height, width), pixels in [0, 1].
        labels: Int (example,).
        norm: "linf" or "l2".
        max_radius: Radius of the ball in pixels in [0, 1], a number or a fraction; no radius is larger.
        points: Number of points per pass through the network; None chooses by device.
        folder: Folder of finished work units, which several processes can share; None saves nothing.
        progress: Called with "clever", the finished and the total number of examples.
        settings: Batches, batch size and seed of :class:`Sampling`.

    Raises:
        InputError: If a setting is out of range, or as :func:`kdiga.certification.class_scores.class_scores`.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> with torch.no_grad():
    ...     _ = model[1].weight.copy_(torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 1.0]])), model[1].bias.zero_()
    >>> image = torch.tensor([0.5, 0.5, 0.5, 0.4]).view(1, 1, 2, 2)  # a margin of 0.1, a slope of 2
    >>> [round(radius, 3) for radius in clever(model, image, torch.tensor([0]), max_radius=0.1).radius]
    [0.05]
    """
    sampling = Sampling(ThreatModel.parse(norm, max_radius), **settings)
    options: dict[str, Any] = {"points": points, "folder": folder, "progress": progress}
    (scores,), (estimates,) = sample_margins([model], images, labels, sampling, **options)
    return clever_radii(scores, estimates, sampling)


def sample_margins(
    models: Sequence[nn.Module],
    images: Tensor,
    labels: Tensor,
    sampling: Sampling,
    **options: Any,
) -> tuple[list[ClassScores], list[LipschitzEstimates]]:
    """Return the logits of each model, and what :func:`estimate_lipschitz` returns. The arguments are as there."""
    device = device_of(models[0], images.device)
    images, labels = images.to(device), labels.to(device)
    with ExitStack() as stack:
        for model in models:
            stack.enter_context(evaluating(model))
            stack.enter_context(frozen_parameters(model))
        scores = [class_scores(model, images, labels) for model in models]
        check_same_classes(scores[0].logits, scores[-1].logits)
        return scores, estimate_lipschitz(models, images, scores, sampling, **options)


def clever_radii(scores: ClassScores, estimates: LipschitzEstimates, sampling: Sampling) -> Clever:
    """Return the radii that the margins and the estimated Lipschitz constants of a model give."""
    correct = scores.correct.cpu()
    if bool(correct.any()) and not bool(estimates.largest[correct].any()):
        raise InputError(
            "every input gradient of the margins of the model was exactly zero: the model ignores its input, or hides "
            "its gradients (rounding, saturation). CLEVER cannot judge it; use smoothing, or attacks without gradients."
        )
    margins = scores.margins.detach().double().cpu()
    radius, p_value = list[float | None](), list[float | None]()
    for row in range(len(margins)):
        limit, place = 0.0, None
        if correct[row]:
            limit, place = smallest_ratio(
                margins[row], estimates.location[row], estimates.largest[row], sampling.ball.eps
            )
        radius.append(limit)
        p = math.nan if place is None else float(estimates.p_value[row, place])
        p_value.append(None if math.isnan(p) else p)
    return Clever(sampling, tuple(radius), tuple(p_value), int((~correct).sum()), radius.count(None))


def smallest_ratio(margins: Tensor, constants: Tensor, largest: Tensor, most: float) -> tuple[float | None, int | None]:
    """Return the smallest ratio of a margin and its Lipschitz constant, at most ``most``, and the place of its class.

    The tensors, each (num_classes - 1,), are the margins of a correctly classified example, the constants, NaN if
    unknown, and lower bounds of the constants. The radius is None if an unknown constant, at up to twice its lower
    bound, could decide it; the place is None if no constant is known.
    """
    # A constant of zero counts as unknown: no point has a gradient, and the radius would be infinite.
    known = constants > 0
    ratios = torch.where(known, margins / constants, torch.inf)
    place = int(ratios.argmin()) if bool(known.any()) else None
    limit = min(float(ratios.amin()), most)
    doubtful = torch.where(largest > 0, margins / (REACH * largest), 0.0)[~known]
    if bool((doubtful < limit).any()):
        return None, None
    return limit, place
