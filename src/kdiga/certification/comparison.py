"""A student's radii beside its teacher's, example by example, by each method."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdiga.certification.certificate import as_numbers, curve_of, share
from kdiga.certification.class_scores import ClassScores, class_scores
from kdiga.certification.clever import Clever, radii_of
from kdiga.certification.interval import PORTION, IntervalBounds, interval_bounds, lipschitz_bounds
from kdiga.certification.interval_network import Network, run, take_apart
from kdiga.certification.lipschitz import Sampling, estimate_lipschitz
from kdiga.certification.smoothing import Smoothed, smooth
from kdiga.certification.statement import Statement, statement_of
from kdiga.checks import check_same_classes
from kdiga.model_state import device_of, evaluating, frozen_parameters
from kdiga.runs.fingerprints import fingerprint_of_model, fingerprint_of_tensors
from kdiga.runs.work_units import OnProgress, ResultCache, WorkUnit, run_work_units
from kdiga.types import ThreatModel


@dataclass(frozen=True)
class CertificateComparison:
    """A student held against its teacher, by one method.

    Args:
        student: its radii.
        teacher: its teacher's, on the same examples, found in the same way.
        end: the largest radius that the method can find.
        statement: what alignment guarantees; None where the method says nothing of gradients.
    """

    student: Clever | Smoothed | IntervalBounds
    teacher: Clever | Smoothed | IntervalBounds
    end: float
    statement: Statement | None = None

    @property
    def compared(self) -> list[int]:
        """Examples that both get right, where the teacher has a radius and the student's is known."""
        rows = zip(self.student.correct, self.teacher.correct, self.student.radius, self.teacher.radius, strict=True)
        return [
            place
            for place, (right, taught, own, radius) in enumerate(rows)
            if right and taught and own is not None and radius is not None and radius > 0
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        own, others = self.student.radius, self.teacher.radius
        at_least = [(own[place] or 0.0) >= (others[place] or 0.0) for place in self.compared]
        examples = len(own)
        of_compared, interval = share(at_least)
        of_all, interval_of_all = share(at_least + [False] * (examples - len(at_least)))
        found: dict[str, Any] = {
            "norm": self.student.to_dict()["norm"],
            "teacher_radius": as_numbers(others),
            "student_radius": as_numbers(own),
            "both_right": sum(a and b for a, b in zip(self.student.correct, self.teacher.correct, strict=True)),
            "compared": len(at_least),
            "share_at_least_teacher": of_compared,
            "share_interval_95": interval,
            "share_of_all": of_all,
            "share_of_all_interval_95": interval_of_all,
            "teacher_curve": curve_of(others, self.end),
            "student_curve": curve_of(own, self.end),
        }
        return found if self.statement is None else found | self.statement.to_dict(own)


def clever_against(
    student: nn.Module,
    teacher: nn.Module,
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
) -> CertificateComparison:
    """Hold a student against its teacher by CLEVER: everything is an estimate.

    Both models look at the same points, and so does the difference of their gradients, whose largest norm ``rho_j`` is
    found by the same extreme-value fit. Each model's radii are those of :func:`kdiga.certification.clever` with the
    same settings. The guaranteed radius is one for exact ``L_j`` and ``rho_j``; where it exceeds the student's own
    estimate, that comes from the fits.

    Args:
        student: maps images to logits; run in eval mode, left as found.
        teacher: likewise, with the same classes and on the same device.
        images: as for :func:`kdiga.certification.clever`, as are all further arguments.
        labels: int (example,).
        norm: "linf" or "l2".
        max_radius: of the ball.
        batches: maxima of each fit.
        batch_size: points of each maximum.
        seed: of the points.
        points: that go through a network together.
        folder: where finished portions are kept.
        progress: called with "clever", examples done and examples to do.

    Raises:
        InputError: as :func:`kdiga.certification.clever`, or if the models have different classes.
    """
    sampling = Sampling(ThreatModel.parse(norm, max_radius), batches, batch_size, seed)
    device = device_of(student, images.device)
    images, labels = images.to(device), labels.to(device)
    with evaluating(student), evaluating(teacher), frozen_parameters(student), frozen_parameters(teacher):
        own, others = class_scores(student, images, labels), class_scores(teacher, images, labels)
        check_same_classes(own.logits, others.logits)
        wanted = (own.correct | others.correct).cpu()
        found, taught, gap = estimate_lipschitz(
            [student, teacher],
            images,
            own.labels,
            wanted,
            own.num_classes - 1,
            sampling,
            points=points,
            result_cache=ResultCache(folder),
            progress=progress,
        )
    statement = statement_of(
        own.margins.double().cpu(),
        others.margins.double().cpu(),
        own.correct.cpu(),
        (taught.location, gap.location),
        taught.largest + gap.largest,
        sampling.ball.eps,
    )
    return CertificateComparison(
        radii_of(own, found, sampling), radii_of(others, taught, sampling), sampling.ball.eps, statement
    )


def smooth_against(
    student: nn.Module, teacher: nn.Module, images: Tensor, labels: Tensor, **settings: Any
) -> CertificateComparison:
    """Hold a student against its teacher by randomized smoothing, both under the same noise.

    Args:
        student: maps images to logits; left as found.
        teacher: likewise, with the same classes.
        images: float (example, channel, height, width), pixels in [0, 1].
        labels: int (example,).
        settings: of :func:`kdiga.certification.smooth`.

    Raises:
        InputError: as :func:`kdiga.certification.smooth`.
    """
    found = smooth(student, images, labels, **settings)
    return CertificateComparison(found, smooth(teacher, images, labels, **settings), found.noise.largest_radius)


def interval_against(
    student: nn.Module,
    teacher: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    norm: str = "linf",
    eps: float | str = 8 / 255,
    max_radius: float | str | None = None,
    folder: Path | None = None,
    progress: OnProgress | None = None,
) -> CertificateComparison:
    """Hold a student against its teacher by interval bounds: everything is proved.

    ``L_j`` and ``rho_j`` are bounded from above over the ball of ``max_radius`` by intervals of the input gradients,
    which get wide fast with it. The guaranteed radius and the one that the student's own bounds prove are both proved;
    neither is always the larger.

    Args:
        student: as for :func:`kdiga.certification.interval_bounds`.
        teacher: likewise, with the same classes and on the same device.
        images: float (example, channel, height, width), pixels in [0, 1].
        labels: int (example,).
        norm: "linf" or "l2".
        eps: at which certified accuracy is asked for.
        max_radius: largest radius; None is eps.
        folder: where finished portions are kept.
        progress: called with "interval", for each model, then "gradients"; examples done and examples to do.

    Raises:
        InputError: as :func:`kdiga.certification.interval_bounds`, or if the models have different classes.
    """
    shared = partial(
        interval_bounds,
        images=images,
        labels=labels,
        norm=norm,
        eps=eps,
        max_radius=max_radius,
        folder=folder,
        progress=progress,
    )
    found, taught = shared(student, role="student"), shared(teacher, role="teacher")
    ball = ThreatModel.parse(norm, found.max_radius)
    device = device_of(student, images.device)
    images, labels = images.to(device), labels.to(device).long()
    own, others = take_apart(student, images[0], "student"), take_apart(teacher, images[0], "teacher")
    check_same_classes(own.bias[None], others.bias[None])
    names = [fingerprint_of_model(model) for model in (student, teacher)] if folder is not None else []
    work_units: list[WorkUnit] = []
    for part, answers in zip(images.split(PORTION), labels.split(PORTION), strict=True):
        key = {
            "certification": "interval-lipschitz",
            "models": names,
            "examples": fingerprint_of_tensors(part, answers),
            "ball": [ball.norm, ball.eps],
        }
        work_units.append(WorkUnit("gradients", key, len(part), partial(_bounds, own, others, part, answers, ball)))
    rows = run_work_units(work_units, ResultCache(folder), progress)
    _, teachers, gaps, margins, taught_margins = (
        torch.tensor([row for chunk in rows for row in chunk[place]], dtype=torch.float64) for place in range(5)
    )
    statement = statement_of(
        margins, taught_margins, torch.tensor(found.correct), (teachers, gaps), teachers + gaps, ball.eps
    )
    return CertificateComparison(found, taught, found.max_radius, statement)


@torch.no_grad()
def _bounds(student: Network, teacher: Network, images: Tensor, labels: Tensor, ball: ThreatModel) -> list[Any]:
    """Return bounds of the Lipschitz constants, and both models' margins, as plain data."""
    images = images.double()
    bounds = lipschitz_bounds(student, teacher, images, labels, ball)
    margins = (
        ClassScores(run(network, images)[-1] @ network.weight.T + network.bias, labels).margins
        for network in (student, teacher)
    )
    return [part.tolist() for part in (*bounds, *margins)]
