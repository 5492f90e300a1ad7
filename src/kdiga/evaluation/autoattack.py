"""AutoAttack (Croce and Hein, 2020) and its Square attack, run by their official code."""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kdiga.evaluation.stages import Stage, StageOutcome
from kdiga.losses import classified_correctly
from kdiga.model_state import seeded
from kdiga.statistics import percent
from kdiga.types import ThreatModel

VERSIONS: dict[str, tuple[str, ...]] = {
    "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "plus": ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"),
    "rand": ("apgd-ce", "apgd-dlr"),
}
"""The attacks of each version, in the order of the package."""
OFFICIAL_NORM = {"linf": "Linf", "l2": "L2", "l1": "L1"}
FEWEST_CLASSES = {"apgd-dlr": 3, "apgd-t": 4}
"""Fewest classes of an attack: the DLR loss compares the three largest logits, its targeted form the four largest."""
SMALLEST_SIDE = 5  # pixels; Square's L1 and L2 starts divide the side of an image by 5
SQUARE_FINDS = 0.002  # share of all examples; the package's own threshold for a warning
FORWARDS = {"apgd-ce": 100, "apgd-dlr": 100, "fab": 200, "square": 5000, "apgd-t": 900, "fab-t": 1800}
BACKWARDS = {"apgd-ce": 100, "apgd-dlr": 100, "fab": 1000, "square": 0, "apgd-t": 900, "fab-t": 900}


def autoattack_stage(name: str, version: str = "standard") -> Stage:
    """Return one attack of the official ensemble, with the settings of its version.

    The stages one after another give the result of one call of the package. Run one by one, each can be cached. Names
    and versions are those of ``VERSIONS``.
    """
    repeats = {"plus": 5, "rand": 20}.get(version, 1) if name in ("apgd-ce", "apgd-dlr", "fab") else 1
    return Stage(
        name=name,
        forwards=FORWARDS[name] * repeats,
        backwards=BACKWARDS[name] * repeats,
        key={"stage": "autoattack", "name": name, "version": version},
        attack=partial(_official_attack, name, version),
        of_autoattack=True,
    )


def _official_attack(
    name: str, version: str, model: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, seed: int
) -> StageOutcome:
    import pyautoattack

    wrapped = _FiniteLogits(model, images.dtype).eval()
    with torch.no_grad():
        num_classes = wrapped(images[:1]).shape[1]
    unfit = f"{num_classes} classes" if num_classes < FEWEST_CLASSES.get(name, 2) else ""
    if name == "square" and square_cannot_start(images, threat):
        unfit = f"images of {min(images.shape[-2:])} pixels under {OFFICIAL_NORM[threat.norm]}"
    if unfit:
        note = f"{name} of AutoAttack is not defined for {unfit}, so it was left out; the others ran."
        return StageOutcome(torch.ones(len(images), dtype=torch.bool), images, [note])
    notes: list[str] = []
    build: Any = pyautoattack.AutoAttack
    with seeded(seed), _collect_warnings(notes):
        official = build(
            wrapped, norm=OFFICIAL_NORM[threat.norm], eps=threat.eps, seed=seed, version=version, device=images.device
        )
        official.attacks_to_run = [name]
        # The targeted attacks try 9 other classes (APGD in L1: 5); a model with fewer classes has fewer targets.
        official.apgd_targeted.n_target_classes = min(official.apgd_targeted.n_target_classes, num_classes - 1)
        official.fab.n_target_classes = min(9, num_classes - 1)
        adv_images, predictions = official.run_standard_evaluation(
            images.contiguous().float(), labels, batch_size=len(images)
        )
    return StageOutcome((predictions == labels).cpu(), adv_images.to(images.dtype), tuple(dict.fromkeys(notes)))


def square_cannot_start(images: Tensor, threat: ThreatModel) -> bool:
    """Return whether images are too small for the official Square attack in L1 or L2."""
    return threat.norm != "linf" and min(images.shape[-2:]) < SMALLEST_SIDE


def square_stage(queries: int) -> Stage:
    """Return Square (Andriushchenko et al., 2020), which needs only logits, with so many queries an example."""
    return Stage(
        name=f"square-{queries}",
        forwards=queries,
        backwards=0,
        key={"stage": "square", "queries": queries},
        attack=partial(_official_square, queries),
    )


def _official_square(
    queries: int, model: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, seed: int
) -> StageOutcome:
    from pyautoattack.square import SquareAttack

    build: Any = SquareAttack
    with seeded(seed), torch.no_grad():
        official = build(
            lambda candidates: model(candidates).nan_to_num(0.0, 0.0, 0.0),  # a copy: Square writes into the logits
            norm=OFFICIAL_NORM[threat.norm],
            eps=threat.eps,
            n_queries=queries,
            seed=seed % 2**31,
            device=images.device,
        )
        adv_images = official.perturb(images.contiguous(), labels)
        return StageOutcome(classified_correctly(model(adv_images), labels).cpu(), adv_images)


def square_warnings(accuracy: Mapping[str, float]) -> list[str]:
    """Return a warning if Square lowers the accuracy that the stages before it leave."""
    names = list(accuracy)
    if "square" not in names[1:]:
        return []
    lost = accuracy[names[names.index("square") - 1]] - accuracy["square"]
    if lost <= SQUARE_FINDS:
        return []
    return [
        f"Square, which uses no gradient, lowered the accuracy by {percent(lost)} after the gradient attacks: "
        "gradients may be masked, and the accuracy may still be too high."
    ]


class _FiniteLogits(nn.Module):
    """The official code compares losses, which must be numbers; :class:`AttackedModel` records the others."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.model, self.dtype = model, dtype

    def forward(self, images: Tensor) -> Tensor:
        # A view: the official code passes one tensor several times, and hooks on it would add up.
        # The official code works in float32 for models of any type.
        logits = self.model(images.view_as(images).to(self.dtype))
        return logits.to(images.dtype).nan_to_num(0.0, 0.0, 0.0)


@contextmanager
def _collect_warnings(notes: list[str]) -> Generator[None]:
    """Collect the package's warnings in place of printing them."""

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
