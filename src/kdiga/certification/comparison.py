"""A student and its teacher, example by example: their radii, and the radius that gradient alignment guarantees.

For an example of class c let ``m_j = (f_c - f_j)(x)`` be the margins of the student. In the ball of radius R let
``L_j`` be the largest ``||grad (f_c - f_j)||_q`` of the teacher, and ``rho_j`` the largest dual norm of the difference
between the gradients of ``f_c - f_j`` of student and teacher. Then no gradient of the student is longer than
``L_j + rho_j``, so by Hein and Andriushchenko (2017) its answer holds within

    min(R, min_j m_j / (L_j + rho_j)).

With perfect alignment, ``rho_j = 0``, and the margins of the teacher this is the Lipschitz radius of the teacher.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdiga.certification.certificate import Radii, accuracy_curve, share
from kdiga.certification.class_scores import ClassScores
from kdiga.certification.clever import Clever, clever_radii, sample_margins, smallest_ratio
from kdiga.certification.interval import CHUNK_SIZE, IntervalBounds, interval_bounds, lipschitz_bounds
from kdiga.certification.interval_network import trace_network
from kdiga.certification.lipschitz import Sampling
from kdiga.certification.smoothing import Smoothed, smooth
from kdiga.checks import check_same_classes
from kdiga.model_state import device_of
from kdiga.runs.chunks import Chunk, run_chunks, split_chunks
from kdiga.runs.fingerprints import fingerprint_of_model
from kdiga.runs.work_units import OnProgress, ResultCache
from kdiga.statistics import median_known
from kdiga.types import ThreatModel

ROUNDING = 1e-6  # relative difference that float32 margins may have


@dataclass(frozen=True)
class AlignmentGuarantee:
    """The radius that alignment guarantees for each example.

    The last three values belong to the class that decides the radius; None for a wrong answer or a failed fit.
    """

    radius: Radii  # guaranteed radius; 0.0 for a wrong answer of the student, None for a failed fit
    rho: Radii  # largest dual norm of the difference of the gradients
    teacher_lipschitz: Radii  # lipschitz constant of the margin of the teacher
    margin_gap: Radii  # margin of the student minus that of the teacher, in logits

    def to_dict(self, measured: Radii) -> dict[str, Any]:
        """Return all values, and a summary with the radii of the student by the same method, as plain data."""
        ratios = [rho / constant for rho, constant in _known_pairs(self.rho, self.teacher_lipschitz) if constant > 0]
        both = [pair for pair in _known_pairs(self.radius, measured) if pair[0] > 0]
        within, interval = share([guaranteed <= found * (1 + ROUNDING) for guaranteed, found in both])
        return {
            "guaranteed_radius": list(self.radius),
            "rho": list(self.rho),
            "teacher_lipschitz": list(self.teacher_lipschitz),
            "margin_gap": list(self.margin_gap),
            "alignment": {
                "known": sum(radius is not None and radius > 0 for radius in self.radius),
                "failed": sum(radius is None for radius in self.radius),
                "median_rho_over_lipschitz": median_known(ratios),
                "median_margin_gap": median_known(self.margin_gap),
                "median_guaranteed_over_measured": median_known(
                    [guaranteed / found for guaranteed, found in both if found > 0]
                ),
                "share_within_measured": within,
                "share_within_measured_95": interval,
            },
        }


def alignment_guarantee(
    margins: tuple[Tensor, Tensor], correct: Tensor, lipschitz: Tensor, rho: Tensor, at_least: Tensor, most: float
) -> AlignmentGuarantee:
    """Return the radius that alignment guarantees for each example, in a ball of radius ``most``.

    All tensors but ``correct`` (example,) are float64 (example, num_classes - 1): the margins of student and teacher,
    the constants ``L_j`` and ``rho_j``, NaN if unknown, and a lower bound of their sum.
    """
    radius = list[float | None]()
    deciding: tuple[list[float | None], ...] = ([], [], [])
    sources = rho, lipschitz, margins[0] - margins[1]
    for row in range(len(correct)):
        limit, place = 0.0, None
        if correct[row]:
            limit, place = smallest_ratio(margins[0][row], (lipschitz + rho)[row], at_least[row], most)
        radius.append(limit)
        for values, source in zip(deciding, sources, strict=True):
            values.append(None if place is None else float(source[row, place]))
    return AlignmentGuarantee(tuple(radius), *map(tuple, deciding))


def _known_pairs(first: Radii, second: Radii) -> list[tuple[float, float]]:
    return [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]


@dataclass(frozen=True)
class CertificateComparison:
    """The certificates of a student and its teacher, by one method, on the same examples."""

    student: Clever | Smoothed | IntervalBounds  # certificate of the student
    teacher: Clever | Smoothed | IntervalBounds  # certificate of the teacher
    largest_radius: float  # largest radius that the method can find
    guarantee: AlignmentGuarantee | None = None  # what alignment guarantees; None for a method without gradients

    @property
    def compared(self) -> list[int]:
        """Examples that both classify correctly, with a known radius of the student and one above 0 of the teacher."""
        rows = zip(self.student.correct, self.teacher.correct, self.student.radius, self.teacher.radius, strict=True)
        return [
            place
            for place, (student_right, teacher_right, own, reference) in enumerate(rows)
            if student_right and teacher_right and own is not None and reference is not None and reference > 0
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return all results as plain data."""
        own, reference = self.student.radius, self.teacher.radius
        at_least = [(own[place] or 0.0) >= (reference[place] or 0.0) for place in self.compared]
        of_compared, interval = share(at_least)
        of_all, interval_of_all = share(at_least + [False] * (len(own) - len(at_least)))
        found: dict[str, Any] = {
            "norm": self.student.to_dict()["norm"],
            "teacher_radius": list(reference),
            "student_radius": list(own),
            "both_right": sum(a and b for a, b in zip(self.student.correct, self.teacher.correct, strict=True)),
            "compared": len(at_least),
            "share_at_least_teacher": of_compared,
            "share_interval_95": interval,
            "share_of_all": of_all,
            "share_of_all_interval_95": interval_of_all,
            "teacher_curve": accuracy_curve(reference, self.largest_radius),
            "student_curve": accuracy_curve(own, self.largest_radius),
        }
        return found if self.guarantee is None else found | self.guarantee.to_dict(own)


def clever_against(
    student: nn.Module,
    teacher: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    norm: str = "linf",
    max_radius: float | str = 8 / 255,
    points: int | None = None,
    folder: Path | None = None,
    progress: OnProgress | None = None,
    **settings: int,
) -> CertificateComparison:
    """Compare a student with its teacher by CLEVER: all results are estimates.

    Both models share all points. The difference of their gradients is sampled there too, and the same extreme-value fit
    estimates its largest norm ``rho_j``. The guaranteed radius holds for exact ``L_j`` and ``rho_j``; if it exceeds the
    estimate of the student, the fits are the reason.

    The models are two as for :func:`kdiga.certification.clever`, with the same classes and on the same device. The
    other arguments, and the radii of each model, are as there.

    Raises:
        InputError: As :func:`kdiga.certification.clever`, or if the models have different classes.
    """
    sampling = Sampling(ThreatModel.parse(norm, max_radius), **settings)
    options: dict[str, Any] = {"points": points, "folder": folder, "progress": progress}
    scores, (estimates, teacher_estimates, rho) = sample_margins(
        [student, teacher], images, labels, sampling, **options
    )
    own, reference = scores
    guarantee = alignment_guarantee(
        (own.margins.double().cpu(), reference.margins.double().cpu()),
        own.correct.cpu(),
        teacher_estimates.location,
        rho.location,
        teacher_estimates.largest + rho.largest,
        sampling.ball.eps,
    )
    radii = clever_radii(own, estimates, sampling), clever_radii(reference, teacher_estimates, sampling)
    return CertificateComparison(*radii, sampling.ball.eps, guarantee)


def smooth_against(
    student: nn.Module, teacher: nn.Module, images: Tensor, labels: Tensor, **settings: Any
) -> CertificateComparison:
    """Compare a student with its teacher by randomized smoothing, both under the same noise.

    The models are two as for :func:`kdiga.certification.smooth`, with the same classes. The other arguments, keyword
    arguments included, and the errors are as there.
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
    folder: Path | None = None,
    progress: OnProgress | None = None,
    **settings: Any,
) -> CertificateComparison:
    """Compare a student with its teacher by interval bounds: all results are proved.

    Intervals of the input gradients bound ``L_j`` and ``rho_j`` from above over the ball of ``max_radius``; they widen
    fast with it. The guaranteed radius and the radius that the student's own bounds prove are both proved; either can
    be the larger one.

    The models are two as for :func:`kdiga.certification.interval_bounds`, with the same classes and on the same device.
    The other arguments are as there; ``progress`` is called with "interval" for each model, then with "gradients".

    Raises:
        InputError: As :func:`kdiga.certification.interval_bounds`, or if the models have different classes.
    """
    settings |= {"norm": norm, "folder": folder, "progress": progress}
    found = interval_bounds(student, images, labels, role="student", **settings)
    reference = interval_bounds(teacher, images, labels, role="teacher", **settings)
    ball = ThreatModel.parse(norm, found.max_radius)
    device = device_of(student, images.device)
    images, labels = images.to(device), labels.to(device).long()
    networks = trace_network(student, images[0], "student"), trace_network(teacher, images[0], "teacher")
    check_same_classes(networks[0].bias[None], networks[1].bias[None])
    fingerprints = [fingerprint_of_model(model, images) for model in (student, teacher)] if folder is not None else []
    about = {"certification": "interval-lipschitz", "models": fingerprints, "ball": [ball.norm, ball.eps]}

    @torch.no_grad()
    def work(chunk: Chunk) -> list[list[list[float]]]:
        pixels = chunk.images.double()
        bounds = lipschitz_bounds(*networks, pixels, chunk.labels, ball)
        margins = [ClassScores(network.logits(pixels), chunk.labels).margins for network in networks]
        return [part.tolist() for part in (*bounds, *margins)]

    job = lambda chunk: about | {"examples": chunk.fingerprint}, work
    (outcomes,) = run_chunks(
        "gradients", split_chunks(images, labels, CHUNK_SIZE), [job], ResultCache(folder), progress
    )
    _, lipschitz, rho, margins, teacher_margins = (
        torch.tensor([row for outcome in outcomes for row in outcome[place]], dtype=torch.float64) for place in range(5)
    )
    guarantee = alignment_guarantee(
        (margins, teacher_margins), torch.tensor(found.correct), lipschitz, rho, lipschitz + rho, ball.eps
    )
    return CertificateComparison(found, reference, found.max_radius, guarantee)
