"""Input gradients and worst images of the same few examples, for the eye."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kdiga.analysis.measures import worst_images
from kdiga.analysis.worst_case import WorstCaseSearch
from kdiga.model_state import device_of, evaluating, seeded
from kdiga.types import ThreatModel

PICTURE_STREAM = 13


def choose_examples(right: Sequence[bool], labels: Tensor, count: int) -> list[int]:
    """Return rows to show: those the teacher gets right first, and among them new classes first, in stored order.

    Args:
        right: whether the teacher is right on each example.
        labels: int64 (batch,).
        count: how many; fewer where there are fewer.
    """
    seen, fresh, again, wrong = set[int](), list[int](), list[int](), list[int]()
    for row, (is_right, label) in enumerate(zip(right, labels.tolist(), strict=True)):
        if not is_right:
            wrong.append(row)
        elif label in seen:
            again.append(row)
        else:
            seen.add(label)
            fresh.append(row)
    return sorted([*fresh, *again, *wrong][:count])


def picture_arrays(
    models: Sequence[nn.Module],
    images: Tensor,
    labels: Tensor,
    classes: Sequence[str],
    *,
    threat: ThreatModel,
    search: WorstCaseSearch | None = None,
    seed: int = 0,
) -> dict[str, NDArray[Any]]:
    """Return arrays by name: ``images``, ``labels``, ``classes``, and of model i ``gradient_i``, ``adversarial_i``,
    ``prediction_i`` and ``adversarial_prediction_i``.

    The adversarial image is the one of the ball with the largest loss that the search found.

    Args:
        models: teacher first.
        images: float (batch, channel, height, width), pixels in [0, 1], few.
        labels: int64 (batch,).
        classes: their names.
        threat: the ball.
        search: for the worst images; None is its defaults.
        seed: of its random starts.
    """  # noqa: D205
    arrays: dict[str, NDArray[Any]] = {
        "images": _array(images.float()),
        "labels": _array(labels),
        "classes": np.asarray([str(name) for name in classes]),
    }
    for place, model in enumerate(models):
        device = device_of(model)
        shown, answers = images.to(device), labels.to(device)
        with seeded(seed, PICTURE_STREAM):
            gradient, adversarial = worst_images(model, shown, answers, threat, search or WorstCaseSearch())
        with evaluating(model), torch.no_grad():
            predictions = [model(pictures).argmax(1) for pictures in (shown, adversarial)]
        arrays |= {
            f"gradient_{place}": _array(gradient.float()),
            f"adversarial_{place}": _array(adversarial.float()),
            f"prediction_{place}": _array(predictions[0]),
            f"adversarial_prediction_{place}": _array(predictions[1]),
        }
    return arrays


def _array(tensor: Tensor) -> NDArray[Any]:
    return tensor.detach().cpu().contiguous().numpy()
