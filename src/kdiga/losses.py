"""Losses between logits, and distances between input gradients: one number per example.

Every function returns a tensor of shape (batch,). A method takes the mean over the batch when it
builds its terms, so a coefficient means the same for every batch size and number of classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from kdiga.errors import check_known, unknown


def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return the cross-entropy of each example in nats.

    Args:
        logits: Float (batch, num_classes).
        labels: Labels, int64, shape (batch,), -100 for an example without a label, whose loss is 0; or probabilities,
            float (batch, num_classes).
        smoothing: Share of the uniform distribution in the labels, in [0, 1).
    """
    logits = full_precision(logits)
    labels = labels.to(logits.dtype) if labels.dim() == 2 else labels
    return F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)


def kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Return ``temperature**2 * KL(p_teacher || p_student)`` of each example, in nats.

    Summed over the classes, as in Hinton et al. (2015); averaging over the classes, the default
    reduction of ``nn.KLDivLoss``, would make the coefficient depend on their number.

    Args:
        student_logits: Float (batch, num_classes), with or without a graph.
        teacher_logits: Float (batch, num_classes), the target.
        temperature: Temperature of both distributions, above 0.
    """
    student, teacher = (
        F.log_softmax(full_precision(z) / temperature, dim=-1) for z in (student_logits, teacher_logits)
    )
    return temperature**2 * F.kl_div(student, teacher, reduction="none", log_target=True).sum(-1)


def entropy(logits: Tensor, order: float = 1.0) -> Tensor:
    """Return the Renyi entropy of each example's softmax, in nats; that of order 1 is Shannon's."""
    log_shares = F.log_softmax(full_precision(logits), dim=-1)
    if order == 1:
        return -(log_shares.exp() * log_shares).sum(-1)
    return (order * log_shares).logsumexp(-1) / (1 - order)


def true_probability(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the softmax probability of each example's own class, or its mean under soft labels."""
    return _at_labels(F.softmax(full_precision(logits), dim=-1), labels)


def true_logit(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the logit of each example's own class, or its mean under soft labels."""
    return _at_labels(logits, labels)


def _at_labels(values: Tensor, labels: Tensor) -> Tensor:
    if labels.dim() == 2:
        return (values * labels).sum(1)
    return values.gather(1, labels.clamp_min(0)[:, None])[:, 0] * (labels >= 0)


def label_probabilities(labels: Tensor, like: Tensor) -> Tensor:
    """Return labels as probabilities, with the shape and dtype of logits; all zero for an example without a label."""
    if labels.dim() == 2:
        return labels.to(like.dtype)
    labelled = (labels >= 0).to(like.dtype)[:, None]
    return torch.zeros_like(like).scatter(1, labels.clamp_min(0)[:, None], labelled)  # one_hot would wait for a GPU


def is_labelled(labels: Tensor) -> Tensor:
    """Return whether each example has a label, bool (batch,)."""
    return torch.ones_like(labels[:, 0], dtype=torch.bool) if labels.dim() == 2 else labels >= 0


def labels_or_predictions(labels: Tensor, logits: Tensor) -> Tensor:
    """Return labels with the predicted class for each example without a label; soft labels as they are."""
    return labels if labels.dim() == 2 else torch.where(labels < 0, logits.detach().argmax(1), labels)


def where_labelled(gradient: Tensor, labels: Tensor) -> Tensor:
    """Return input gradients with those of examples without a label set to 0, as their loss is."""
    return gradient if labels.dim() == 2 else torch.where(is_labelled(labels)[:, None, None, None], gradient, 0)


def classified_correctly(logits: Tensor, labels: Tensor) -> Tensor:
    """Return whether each example is classified correctly, bool (batch,); a logit that is not finite is an error.

    Args:
        logits: Float (batch, num_classes).
        labels: Labels, int64, shape (batch,).
    """
    return (logits.argmax(1) == labels) & logits.isfinite().all(1)


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the largest other logit minus the true one: above 0 where an example is misclassified.

    Carlini and Wagner (2017) maximise it; unlike the cross-entropy it does not saturate where a model is certain.
    """
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return others.amax(1) - true_logit(logits, labels)


Score = Literal["loss", "probability", "logit"]
"""Score of an example that an input gradient is taken of: cross-entropy, or probability or logit of its own class."""

SCORES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "loss": cross_entropy,
    "probability": true_probability,
    "logit": true_logit,
}


def score_by_name(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Return one of :data:`SCORES`.

    Raises:
        InputError: for an unknown name.
    """
    check_known("score", name, SCORES)
    return SCORES[name]


def l2(a: Tensor, b: Tensor) -> Tensor:
    """Return the Euclidean length of each example's gap. At a zero gap its derivatives are zero, not undefined."""
    gap = (a - b).flatten(1)
    apart = (gap.detach() != 0).any(1)
    safe = torch.where(apart[:, None], gap, torch.ones_like(gap))
    return torch.where(apart, torch.linalg.vector_norm(safe, dim=1), gap.new_zeros(()))


def l2_squared(a: Tensor, b: Tensor) -> Tensor:
    """Return the squared Euclidean length of each example's gap."""
    return (a - b).flatten(1).square().sum(1)


def l1(a: Tensor, b: Tensor) -> Tensor:
    """Return the sum of the absolute gaps of each example: the dual norm of an Linf threat model."""
    return (a - b).flatten(1).abs().sum(1)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Return ``1 - cos`` of the angle between each example's gradients: 0 aligned, 2 opposed.

    An example on which either gradient is zero (below the smallest normal number) has no direction: it counts 0 and
    passes no derivative, instead of one of order 1e8.
    """
    a, b = a.flatten(1), b.flatten(1)
    # Gradients of confident models are tiny, and their squares would underflow.
    sizes = [one.detach().abs().amax(1, keepdim=True) for one in (a, b)]
    defined = torch.minimum(*sizes) >= torch.finfo(a.dtype).tiny
    unit_a, unit_b = (
        torch.where(defined, one, 1.0) / torch.where(defined, size, 1.0)
        for one, size in zip((a, b), sizes, strict=True)
    )
    return torch.where(defined[:, 0], 1 - F.cosine_similarity(unit_a, unit_b, dim=1, eps=1e-12), a.new_zeros(()))


DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l2": l2,
    "l2-squared": l2_squared,
    "l1": l1,
    "cosine": cosine,
}


DUAL = {"linf": "l1", "l2": "l2"}
"""The distance dual to a threat model's norm: the largest change of a linear loss over its ball, per eps."""

DUAL_ORDER = {"linf": 1, "l2": 2}
"""The order of the dual vector norm."""


def check_distance(name: str) -> None:
    """Check the name of a distance, or "dual".

    Raises:
        InputError: for an unknown name.
    """
    if name != "dual" and name not in DISTANCES:
        raise unknown("distance", name, (*DISTANCES, "dual"))


def distance_under(name: str, norm: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Return one of :data:`DISTANCES`, "dual" being the one dual to the norm."""
    return distance_by_name(DUAL[norm] if name == "dual" else name)


def distance_by_name(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Return one of :data:`DISTANCES`.

    Raises:
        InputError: for an unknown name.
    """
    check_known("distance", name, DISTANCES)
    return DISTANCES[name]


def full_precision(logits: Tensor) -> Tensor:
    """Return bf16 and fp16 logits as float32, since a softmax in bf16 has 3 digits; others as they are."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
