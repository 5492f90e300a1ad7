"""What is measured of one model, and of a student beside its teacher, as plain numbers an example."""

from __future__ import annotations

from typing import TypedDict

import torch
from torch import Tensor, nn

from kdiga.analysis.agreement import cosines, gradient_distance
from kdiga.analysis.linearity import Expansion, local_linearity
from kdiga.analysis.scores import loss_of
from kdiga.analysis.search import Search
from kdiga.modes import evaluating, frozen_parameters
from kdiga.types import ThreatModel


class OfModel(TypedDict):
    """One model's measures, a number an example: nats, and nats per pixel unit for the gradient."""

    loss: list[float]
    linearity: list[float]
    gradient_norm: list[float]


class OfPair(TypedDict):
    """A student's measures beside its teacher's, a number an example, in nats but for the cosine.

    Beside each worst loss change stand the remainders of the two models at the image where it was found.
    """

    cosine: list[float | None]
    distance: list[float]
    clean_gap: list[float]
    change: list[float]
    student_at_change: list[float]
    transfer: list[float]
    student_at_transfer: list[float]
    teacher_at_transfer: list[float]


def measure_model(model: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, search: Search) -> OfModel:
    """Return a model's loss, local linearity and the dual norm of its input gradient.

    Random starts come from the caller's stream. The model runs in eval mode and is left as found.
    """
    with evaluating(model), frozen_parameters(model):
        expansion = Expansion.around(images, loss_of(model, labels))
        gamma, _ = local_linearity(expansion, threat, search)
    return {
        "loss": expansion.values.tolist(),
        "linearity": gamma.tolist(),
        "gradient_norm": expansion.dual_norm(threat).tolist(),
    }


def measure_pair(
    teacher: nn.Module, student: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, search: Search
) -> OfPair:
    """Return how a student's input gradients agree with its teacher's, and the worst that the ball holds.

    The worst change is the largest ``l_s(x+d) - l_s(x)`` found, the worst transfer the largest
    ``|l_s(x+d) - l_t(x+d)|``, searched on both sides. ``d = 0`` is in the ball, so a change is at least 0
    and a transfer at least the gap on the clean image.
    """
    with evaluating(teacher), evaluating(student), frozen_parameters(teacher), frozen_parameters(student):
        ours = Expansion.around(images, loss_of(student, labels))
        theirs = Expansion.around(images, loss_of(teacher, labels))

        def apart(adv_images: Tensor) -> Tensor:
            return ours.score(adv_images).double() - theirs.score(adv_images).double()

        _, worst = search.largest(ours.score, images, threat)
        transfer, farthest = search.farthest(apart, images, threat)
        with torch.no_grad():
            change = ours.score(worst).double() - ours.values
            remainders = [ours.remainder(worst), ours.remainder(farthest), theirs.remainder(farthest)]
    at_change, at_transfer, teachers_at_transfer = (values.abs().tolist() for values in remainders)
    return {
        "cosine": list(cosines(ours.gradient, theirs.gradient)),
        "distance": gradient_distance(ours.gradient, theirs.gradient, threat).tolist(),
        "clean_gap": (ours.values - theirs.values).abs().tolist(),
        "change": change.clamp_min(0).tolist(),
        "student_at_change": at_change,
        "transfer": transfer.tolist(),
        "student_at_transfer": at_transfer,
        "teacher_at_transfer": teachers_at_transfer,
    }


def worst_images(
    model: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, search: Search
) -> tuple[Tensor, Tensor]:
    """Return a model's input gradients, and the images of the ball with the largest loss found."""
    with evaluating(model), frozen_parameters(model):
        expansion = Expansion.around(images, loss_of(model, labels))
        return expansion.gradient, search.largest(expansion.score, images, threat)[1]
