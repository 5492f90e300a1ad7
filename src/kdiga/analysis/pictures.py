"""Arrays for pictures: input gradients and worst images of all models on the same few examples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kdiga.analysis.linearity import Expansion
from kdiga.analysis.worst_case import WorstCaseSearch, loss_score
from kdiga.model_output import logits_at
from kdiga.model_state import device_of, evaluating, frozen_parameters, seeded
from kdiga.types import ThreatModel

PICTURE_STREAM = 13


def choose_examples(right: Sequence[bool], labels: Tensor, count: int) -> list[int]:
    """Return at most ``count`` rows to show: those that the teacher gets right first, new classes first among them."""
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
    """Return ``images``, ``labels``, ``classes``, and the gradients, adversarial images and predictions of each model.

    Those of model i are ``gradient_i``, ``adversarial_i``, ``prediction_i`` and ``adversarial_prediction_i``. The
    adversarial image is the one in the ball with the largest loss that the search finds. ``seed`` decides its random
    starts; ``classes`` are names.
    """
    arrays: dict[str, NDArray[Any]] = {
        "images": _array(images.float()),
        "labels": _array(labels),
        "classes": np.asarray([str(name) for name in classes]),
    }
    for place, model in enumerate(models):
        device = device_of(model)
        shown = images.to(device)
        with seeded(seed, PICTURE_STREAM), evaluating(model), frozen_parameters(model):
            expansion = Expansion.around(shown, loss_score(model, labels.to(device)))
            _, adversarial = (search or WorstCaseSearch()).largest(expansion.score, shown, threat)
            with torch.no_grad():
                predictions = [logits_at(model, pictures).argmax(1) for pictures in (shown, adversarial)]
        arrays |= {
            f"gradient_{place}": _array(expansion.gradient.float()),
            f"adversarial_{place}": _array(adversarial.float()),
            f"prediction_{place}": _array(predictions[0]),
            f"adversarial_prediction_{place}": _array(predictions[1]),
        }
    return arrays


def _array(tensor: Tensor) -> NDArray[Any]:
    return tensor.detach().cpu().contiguous().numpy()
