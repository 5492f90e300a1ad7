"""What a model answers on the images that are certified, and whether its answers can be certified at all."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kdiga.checks import check_images, check_labels
from kdiga.errors import InputError
from kdiga.model_state import couples_batch, seeded

BATCH_SIZE = 250
_STREAM = 0x616E73  # of the image that no data set holds


@dataclass(frozen=True)
class ClassScores:
    """A model's answers, on the model's device.

    Args:
        logits: float (example, num_classes).
        labels: int64 (example,).
    """

    logits: Tensor
    labels: Tensor

    @property
    def correct(self) -> Tensor:
        """Bool (example,): which are right."""
        return self.logits.argmax(1) == self.labels

    @property
    def num_classes(self) -> int:
        """Length of the logits."""
        return self.logits.shape[1]

    @property
    def margins(self) -> Tensor:
        """Float (example, num_classes - 1): ``f_c - f_j`` for the other classes ``j = c + 1, c + 2, ...`` in a circle.

        In logits, below 0 where class ``j`` is preferred.
        """
        own = self.logits.gather(1, self.labels[:, None])
        return own - self.logits.gather(1, other_classes(self.labels, self.num_classes))


def other_classes(labels: Tensor, num_classes: int) -> Tensor:
    """Return int64 (example, num_classes - 1): the classes after an example's own, in a circle."""
    steps = torch.arange(1, num_classes, device=labels.device)
    return (labels[:, None] + steps) % num_classes


@torch.no_grad()
def class_scores(model: nn.Module, images: Tensor, labels: Tensor) -> ClassScores:
    """Return a model's answers, after a look at whether a radius of theirs would mean anything.

    Args:
        model: in eval mode.
        images: float (example, channel, height, width), pixels in [0, 1], on the model's device.
        labels: int (example,).

    Raises:
        InputError: for no example, images or labels out of range, logits that are not finite, of another shape or of
            one class, batch norm without statistics of its own, answers that change from call to call, or that are
            the same whatever the image.
    """
    check_images(images)
    check_labels(labels, images)
    if not len(images):
        raise InputError("the data held no example; give at least one image and its label.")
    if couples_batch(model):
        raise InputError(
            "the model's batch norm keeps no statistics, so an answer depends on the other images of its batch and has "
            "no radius; use batch norm with track_running_stats."
        )
    logits = torch.cat([_logits(model, part) for part in images.split(BATCH_SIZE)])
    check_labels(labels, images, logits.shape[1])
    _check_steady(model, images[:BATCH_SIZE], logits[:BATCH_SIZE])
    _check_attentive(model, images, logits)
    return ClassScores(logits, labels.long())


def _logits(model: nn.Module, images: Tensor) -> Tensor:
    logits = model(images)
    if logits.dim() != 2 or logits.shape[1] < 2 or len(logits) != len(images):
        raise InputError(
            f"the model returned shape {tuple(logits.shape)} for {len(images)} images; it must be (batch, num_classes) "
            "logits of at least 2 classes."
        )
    if not bool(logits.isfinite().all()):
        raise InputError("the model returned logits that are not finite; its weights are damaged or diverged.")
    return logits


def _check_steady(model: nn.Module, images: Tensor, logits: Tensor) -> None:
    again = _logits(model, images)
    if not torch.allclose(again, logits, rtol=1e-3, atol=1e-4 * float(logits.abs().max())):
        raise InputError(
            "the model answered the same images differently twice; a radius needs fixed answers. Certify it without "
            "its own randomness, or average it first."
        )


def _check_attentive(model: nn.Module, images: Tensor, logits: Tensor) -> None:
    with seeded(_STREAM):
        noise = torch.rand(1, *images.shape[1:])
    answers = torch.cat((logits, _logits(model, noise.to(images))))
    if bool((answers == answers[:1]).all()):
        raise InputError(
            "the model ignores its input: it gave one answer to every image and to noise, which no perturbation "
            "changes. Look for dead units or weights that were not loaded."
        )
