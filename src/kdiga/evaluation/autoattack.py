"""AutoAttack (Croce and Hein, 2020), run by its official code."""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kdiga.errors import InputError
from kdiga.evaluation.outcome import StageOutcome
from kdiga.model_state import seeded
from kdiga.types import ThreatModel

VERSIONS: dict[str, tuple[str, ...]] = {
    "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "plus": ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"),
    "rand": ("apgd-ce", "apgd-dlr"),
}
"""Its attacks, in its order."""
OFFICIAL_NORM = {"linf": "Linf", "l2": "L2"}
FEWEST_CLASSES = 4  # its targeted DLR loss compares the four largest logits
SQUARE_FINDS = 0.002  # of all examples; the package's own threshold for a warning
FORWARDS = {"apgd-ce": 100, "apgd-dlr": 100, "fab": 200, "square": 5000, "apgd-t": 900, "fab-t": 1800}
BACKWARDS = {"apgd-ce": 100, "apgd-dlr": 100, "fab": 1000, "square": 0, "apgd-t": 900, "fab-t": 900}


def autoattack_stages(version: str) -> list[OfficialStage]:
    """Return the attacks of a version of AutoAttack, each on what the ones before leave, as the package runs them."""
    return [OfficialStage(name, version) for name in VERSIONS[version]]


@dataclass(frozen=True)
class OfficialStage:
    """One attack of the official ensemble, with the settings that the version gives it.

    Run one after another on a batch, the stages give what one call of the package gives; run singly,
    each can be kept when it is done.

    Args:
        name: such as "apgd-ce".
        version: "standard", "plus" or "rand".
    """

    name: str
    version: str = "standard"

    @property
    def forwards(self) -> int:
        """Forward passes of an example that is never fooled."""
        return FORWARDS[self.name] * self._repeats

    @property
    def backwards(self) -> int:
        """Backward passes to the images of an example that is never fooled, among ten classes."""
        return BACKWARDS[self.name] * self._repeats

    def key(self) -> dict[str, Any]:
        """Return the settings as plain data."""
        return {"stage": "autoattack", "name": self.name, "version": self.version}

    @property
    def _repeats(self) -> int:
        return {"plus": 5, "rand": 20}.get(self.version, 1) if self.name in ("apgd-ce", "apgd-dlr", "fab") else 1

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, threat: ThreatModel, seed: int
    ) -> StageOutcome:
        """Return which examples are still right; see :class:`kdiga.evaluation.attacks.Stage`."""
        return self.attack(model, images, labels, threat=threat, seed=seed)[1]

    def attack(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, threat: ThreatModel, seed: int
    ) -> tuple[Tensor, StageOutcome]:
        """Return adversarial images, those of examples that stood as they were, and which examples are still right."""
        import pyautoattack

        wrapped = _ContiguousGradients(model).eval()
        with torch.no_grad():
            num_classes = wrapped(images[:1]).shape[1]
        if num_classes < FEWEST_CLASSES:
            raise InputError(
                f"AutoAttack was asked about a model of {num_classes} classes; its targeted attacks need at least "
                f"{FEWEST_CLASSES}. Use --attacks clean,fgsm,pgd-40 instead."
            )
        notes: list[str] = []
        with seeded(seed), _messages_to(notes):
            build: Any = pyautoattack.AutoAttack
            official = build(
                wrapped,
                norm=OFFICIAL_NORM[threat.norm],
                eps=threat.eps,
                seed=seed,
                version=self.version,
                device=images.device,
            )
            official.attacks_to_run = [self.name]
            # Its targeted attacks try 9 other classes; a model of fewer has no more to offer.
            official.apgd_targeted.n_target_classes = min(9, num_classes - 1)
            official.fab.n_target_classes = min(9, num_classes - 1)
            adv_images, predictions = official.run_standard_evaluation(
                images.contiguous(), labels, batch_size=len(images)
            )
        return adv_images, StageOutcome((predictions == labels).cpu(), tuple(dict.fromkeys(notes)))


def remarks(accuracy: Mapping[str, float]) -> list[str]:
    """Return what the accuracies after each stage give reason to doubt.

    Args:
        accuracy: in [0, 1], by stage, in the order of an attack.
    """
    names = list(accuracy)
    if "square" not in names[1:]:
        return []
    before = accuracy[names[names.index("square") - 1]]
    lost = before - accuracy["square"]
    if lost <= SQUARE_FINDS:
        return []
    return [
        f"Square, which sees no gradient, lowered the accuracy by {lost:.1%}, after the gradient attacks before it: "
        "gradients may be masked, and the accuracy may still be too high."
    ]


class _ContiguousGradients(nn.Module):
    """The official code flattens input gradients with ``view``, which fails on channels_last ones."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(_Contiguous.apply(images))


class _Contiguous(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        return images.view_as(images)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return gradient.contiguous()


@contextmanager
def _messages_to(notes: list[str]) -> Generator[None]:
    """Collect the package's warnings instead of letting them reach the terminal."""

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            notes.append(record.getMessage().split(" See ")[0])

    logger, handler = logging.getLogger("auto-attack"), Collector(logging.WARNING)
    before = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = before
