"""What is measured of one model, and of a student beside its teacher, as plain numbers an example."""

from __future__ import annotations

from typing import TypedDict

import torch
from torch import Tensor, nn

from kdiga.analysis.agreement import cosines, gradient_distance
from kdiga.analysis.linearity import Expansion, local_linearity
from kdiga.analysis.scores import loss_of
from kdiga.analysis.worst_case import WorstCaseSearch
from kdiga.model_state import evaluating, frozen_parameters
from kdiga.types import ThreatModel


class OfModel(TypedDict):
    """One model's measures, a number an example: nats, and nats per pixel unit for the gradient.

    ``change`` is the largest rise of the loss that was found, ``linearity`` the largest remainder, that at the
    image of the largest rise among them.
    """

    loss: list[float]
    linearity: list[float]
    gradient_norm: list[float]
    change: list[float]


class OfPair(TypedDict):
    """A student's measures beside its teacher's, a number an example, in nats but for the cosine.

    ``transfer`` is the largest distance of the two losses that was found; the remainders of both models at the image
    where it was stand beside it.
    """

    cosine: list[float | None]
    distance: list[float]
    clean_gap: list[float]
    transfer: list[float]
    student_at_transfer: list[float]
    teacher_at_transfer: list[float]


def measure_model(
    model: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, search: WorstCaseSearch
) -> OfModel:
    """Return a model's loss, local linearity, the dual norm of its input gradient and its largest rise found.

    ``d = 0`` is in the ball, so a rise is at least 0. Random starts come from the caller's stream. The model runs in
    eval mode and is left as found.
    """
    with evaluating(model), frozen_parameters(model):
        expansion = Expansion.around(images, loss_of(model, labels))
        gamma, _ = local_linearity(expansion, threat, search)
        _, worst = search.largest(expansion.score, images, threat)
        with torch.no_grad():
            change = expansion.score(worst).double() - expansion.values
            gamma = torch.maximum(gamma, expansion.remainder(worst).abs())
    return {
        "loss": expansion.values.tolist(),
        "linearity": gamma.tolist(),
        "gradient_norm": expansion.dual_norm(threat).tolist(),
        "change": change.clamp_min(0).tolist(),
    }


def measure_pair(
    teacher: nn.Module, student: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, search: WorstCaseSearch
) -> OfPair:
    """Return how a student's input gradients agree with its teacher's, and how far apart the ball brings their losses.

    The largest ``|l_s(x+d) - l_t(x+d)|`` is searched on both sides. ``d = 0`` is in the ball, so it is at least the
    gap on the clean image.
    """
    with evaluating(teacher), evaluating(student), frozen_parameters(teacher), frozen_parameters(student):
        ours = Expansion.around(images, loss_of(student, labels))
        theirs = Expansion.around(images, loss_of(teacher, labels))

        def apart(adv_images: Tensor) -> Tensor:
            return ours.score(adv_images).double() - theirs.score(adv_images).double()

        transfer, farthest = search.farthest(apart, images, threat)
        with torch.no_grad():
            remainders = [expansion.remainder(farthest).abs().tolist() for expansion in (ours, theirs)]
    return {
        "cosine": list(cosines(ours.gradient, theirs.gradient)),
        "distance": gradient_distance(ours.gradient, theirs.gradient, threat).tolist(),
        "clean_gap": (ours.values - theirs.values).abs().tolist(),
        "transfer": transfer.tolist(),
        "student_at_transfer": remainders[0],
        "teacher_at_transfer": remainders[1],
    }


def worst_images(
    model: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, search: WorstCaseSearch
) -> tuple[Tensor, Tensor]:
    """Return a model's input gradients, and the images of the ball with the largest loss found."""
    with evaluating(model), frozen_parameters(model):
        expansion = Expansion.around(images, loss_of(model, labels))
        return expansion.gradient, search.largest(expansion.score, images, threat)[1]
