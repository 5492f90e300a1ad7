"""Local Lipschitz constants of margins, estimated from the gradients at random points by an extreme-value fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kdiga.certification.gradients import largest_norms, quick_convolutions
from kdiga.certification.weibull import LEAST_OBSERVATIONS, fit_reverse_weibull
from kdiga.errors import InputError
from kdiga.runs.fingerprints import fingerprint_of_model, fingerprint_of_tensors
from kdiga.runs.work_units import OnProgress, ResultCache, WorkUnit, run_work_units
from kdiga.types import ThreatModel

PORTION = 5  # examples that are kept together


@dataclass(frozen=True)
class Sampling:
    """Which points gradients are taken at.

    Args:
        ball: norm, and radius as eps, above 0.
        batches: of points, each of which gives one maximum; at least 5.
        batch_size: points of a batch, at least 1.
        seed: of the points; example i draws from a stream of its own.

    Raises:
        InputError: for values out of range.
    """

    ball: ThreatModel
    batches: int = 100
    batch_size: int = 25
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.ball.eps > 0:
            raise InputError(
                f"the largest radius was {self.ball.eps:g}; it must be above 0. Give max_radius, on the command line "
                "--max-radius."
            )
        if self.batches < LEAST_OBSERVATIONS or self.batch_size < 1:
            raise InputError(
                f"CLEVER was asked for {self.batches} batches of {self.batch_size} points; it needs at least "
                f"{LEAST_OBSERVATIONS} batches of at least 1, and takes 100 of 25 by default."
            )

    def key(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "norm": self.ball.norm,
            "radius": self.ball.eps,
            "batches": self.batches,
            "batch_size": self.batch_size,
            "seed": self.seed,
        }


@dataclass(frozen=True)
class Lipschitz:
    """Estimates of ``max ||grad (f_c - f_j)||_q`` over a ball, each float64 (example, num_classes - 1) on the CPU.

    Args:
        location: the estimate; NaN where the fit failed or the example was not looked at.
        largest: the largest norm seen.
        p_value: of the fit; NaN where there is none, or where every maximum was one number and needed no fit.
    """

    location: Tensor
    largest: Tensor
    p_value: Tensor

    @classmethod
    def of(cls, maxima: Sequence[Tensor]) -> Lipschitz:
        """Return the estimates of some examples' maxima, each (batches, num_classes - 1); all fits at once."""
        rows = torch.cat([part.T for part in maxima]).cpu()
        fit = fit_reverse_weibull(rows)
        shape = len(maxima), maxima[0].shape[1]
        largest = rows.double().amax(1)
        return cls(*(part.view(shape) for part in (fit.location, largest, fit.p_value)))

    def to_plain(self) -> list[list[list[float | None]]]:
        """Return plain data, None for NaN."""
        return [[_plain(row) for row in part.tolist()] for part in (self.location, self.largest, self.p_value)]

    @classmethod
    def from_plain(cls, plain: Sequence[Sequence[Sequence[float | None]]], wanted: Tensor, classes: int) -> Lipschitz:
        """Return what :meth:`to_plain` wrote of the examples that were wanted."""
        parts = [torch.full((len(wanted), classes), torch.nan, dtype=torch.float64) for _ in range(3)]
        for part, rows in zip(parts, plain, strict=True):
            if rows:
                part[wanted] = torch.tensor(
                    [[math.nan if x is None else x for x in row] for row in rows], dtype=torch.float64
                )
        return cls(*parts)


def estimate_lipschitz(
    models: Sequence[nn.Module],
    images: Tensor,
    labels: Tensor,
    wanted: Tensor,
    classes: int,
    sampling: Sampling,
    *,
    points: int | None = None,
    result_cache: ResultCache,
    progress: OnProgress | None = None,
    task: str = "clever",
) -> list[Lipschitz]:
    """Return the estimates of each model and, after two models, of the difference of their gradients.

    Args:
        models: one or two, in eval mode, parameters frozen; they look at the same points.
        images: float (example, channel, height, width), on the models' device.
        labels: int64 (example,), the classes c.
        wanted: bool (example,), on the CPU: which examples to look at.
        classes: other classes than the example's own.
        sampling: which points.
        points: that go through a network together; None chooses by device.
        result_cache: where estimates are kept.
        progress: called with the task, examples done and examples to do.
        task: what progress calls it.
    """
    fingerprints = [fingerprint_of_model(model) for model in models] if result_cache.folder is not None else []
    work_units: list[WorkUnit] = []
    for start in range(0, len(images), PORTION):
        rows = slice(start, start + PORTION)
        part = images[rows], labels[rows], wanted[rows]
        key = {
            "certification": "lipschitz",
            "models": fingerprints,
            "examples": fingerprint_of_tensors(*part[:2]),
            "start": start,
            "wanted": part[2].int().tolist(),
            "sampling": sampling.key(),
        }
        work = partial(_work, models, *part, start, sampling, points)
        work_units.append(WorkUnit(task, key, len(part[0]), work))
    with quick_convolutions(models):
        outcomes = run_work_units(work_units, result_cache, progress)
    kinds = len(models) + (len(models) == 2)
    chunks = wanted.split(PORTION)
    return [
        _joined([Lipschitz.from_plain(out[kind], mask, classes) for out, mask in zip(outcomes, chunks, strict=True)])
        for kind in range(kinds)
    ]


def _work(
    models: Sequence[nn.Module],
    images: Tensor,
    labels: Tensor,
    wanted: Tensor,
    start: int,
    sampling: Sampling,
    points: int | None,
) -> list[list[list[list[float | None]]]]:
    found = [
        largest_norms(
            models,
            images[row],
            labels[row],
            ball=sampling.ball,
            batches=sampling.batches,
            batch_size=sampling.batch_size,
            seed=(sampling.seed, start + row),
            points=points,
        )
        for row in wanted.nonzero()[:, 0].tolist()
    ]
    if not found:
        return [[[], [], []]] * (len(models) + (len(models) == 2))
    return [Lipschitz.of(maxima).to_plain() for maxima in zip(*found, strict=True)]


def _joined(parts: Sequence[Lipschitz]) -> Lipschitz:
    return Lipschitz(
        torch.cat([part.location for part in parts]),
        torch.cat([part.largest for part in parts]),
        torch.cat([part.p_value for part in parts]),
    )


def _plain(row: Sequence[float]) -> list[float | None]:
    return [None if math.isnan(value) else value for value in row]
