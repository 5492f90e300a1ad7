"""The logits of a model on the examples to certify, and whether the model can be certified at all."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kdiga.checks import check_examples, check_labels, check_logits
from kdiga.errors import InputError
from kdiga.model_output import logits_at
from kdiga.model_state import couples_batch, seeded

BATCH_SIZE = 250
_STREAM = 0x616E73  # random stream of the noise image


@dataclass(frozen=True)
class ClassScores:
    """Logits and labels, on the device of the model."""

    logits: Tensor  # float (example, num_classes)
    labels: Tensor  # int64 (example,)

    @property
    def correct(self) -> Tensor:
        """Whether each example is classified correctly, bool (example,)."""
        return self.logits.argmax(1) == self.labels

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.logits.shape[1]

    @property
    def margins(self) -> Tensor:
        """Margins ``f_c - f_j`` in logits, float (example, num_classes - 1), classes j as in :func:`other_classes`.

        A margin is below 0 if the model prefers class j.
        """
        own = self.logits.gather(1, self.labels[:, None])
        return own - self.logits.gather(1, other_classes(self.labels, self.num_classes))


def other_classes(labels: Tensor, num_classes: int) -> Tensor:
    """Return the classes ``c + 1, c + 2, ...`` modulo ``num_classes``, int64 (example, num_classes - 1)."""
    steps = torch.arange(1, num_classes, device=labels.device)
    return (labels[:, None] + steps) % num_classes


@torch.no_grad()
def class_scores(model: nn.Module, images: Tensor, labels: Tensor) -> ClassScores:
    """Return the logits of a model, and check that a radius is meaningful for it.

    Args:
        model: Maps images to logits; in eval mode.
        images: Float (example, channel, height, width), pixels in [0, 1], on the device of the model.
        labels: Int (example,).

    Raises:
        InputError: If there are no examples; images or labels are out of range; logits are not finite, have the wrong
            shape or fewer than 2 classes; batch norm has no running statistics; the logits change from call to call;
            or they are the same for every image.
    """
    check_examples(images, labels)
    if couples_batch(model):
        raise InputError(
            "the batch norm of the model has no running statistics, so an answer depends on the other images of its "
            "batch and has no radius; use batch norm with track_running_stats."
        )
    logits = torch.cat(
        [check_logits(logits_at(model, part), part, least_classes=2) for part in images.split(BATCH_SIZE)]
    )
    check_labels(labels, images, logits.shape[1])
    _check_deterministic(model, images[:BATCH_SIZE], logits[:BATCH_SIZE])
    _check_uses_input(model, images, logits)
    return ClassScores(logits, labels.long())


def _check_deterministic(model: nn.Module, images: Tensor, logits: Tensor) -> None:
    if not torch.allclose(logits_at(model, images), logits, rtol=1e-3, atol=1e-4 * float(logits.abs().max())):
        raise InputError(
            "the model answered the same images differently twice; a radius needs fixed answers. Remove the random "
            "part of the model, or average over it, before you certify it."
        )


def _check_uses_input(model: nn.Module, images: Tensor, logits: Tensor) -> None:
    with seeded(_STREAM):
        noise = torch.rand(1, *images.shape[1:])
    answers = torch.cat((logits, check_logits(logits_at(model, noise.to(images)), noise)))
    if bool((answers == answers[:1]).all()):
        raise InputError(
            "the model ignores its input: it gave one answer to every image and to noise. Check for dead units and "
            "for weights that were not loaded."
        )
