"""The attacks of an evaluation, by name. Each says which examples are still classified correctly."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from kdiga.attacks import PGD
from kdiga.errors import InputError, unknown
from kdiga.evaluation.autoattack import VERSIONS, AutoAttack
from kdiga.losses import cross_entropy
from kdiga.modes import seeded
from kdiga.types import ThreatModel

Progress = Callable[[int, int], None]


class Attack(Protocol):
    """Tries to fool a model on examples that it gets right."""

    @property
    def notes(self) -> Sequence[str]:
        """What the attack found suspicious, in words."""
        ...

    def survivors(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, threat: ThreatModel, seed: int, progress: Progress
    ) -> Tensor:
        """Return bool (batch,): which examples are still right.

        Args:
            model: in eval mode.
            images: float (batch, channel, height, width), contiguous, all classified correctly.
            labels: int64 (batch,).
            threat: the ball to stay in.
            seed: of the attack's random starts.
            progress: told examples done and examples in all.
        """
        ...


@dataclass(frozen=True)
class GradientAttack:
    """FGSM or PGD on the cross-entropy, one uniform start (FGSM: none), step size eps / 4.

    An example counts as fooled if the iterate with the highest loss is misclassified.
    """

    steps: int
    batch_size: int = 500
    notes: Sequence[str] = ()

    def survivors(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, threat: ThreatModel, seed: int, progress: Progress
    ) -> Tensor:
        """Return which examples are still right."""
        single = self.steps == 1
        attack = PGD(threat=threat, steps=self.steps, start="clean" if single else "uniform", keep_best=not single)
        right = torch.zeros(len(labels), dtype=torch.bool)
        with seeded(seed):
            for start in range(0, len(images), self.batch_size):
                part = slice(start, start + self.batch_size)
                answers = labels[part]

                def objective(adv_images: Tensor, answers: Tensor = answers) -> Tensor:
                    return cross_entropy(model(adv_images), answers)

                adv_images = attack(objective, images[part])
                with torch.no_grad():
                    right[part] = (model(adv_images).argmax(1) == answers).cpu()
                progress(min(start + self.batch_size, len(images)), len(images))
        return right


def attack_by_name(name: str, *, version: str = "standard") -> Attack | None:
    """Return the attack of that name; None for "clean", which needs none.

    Args:
        name: "clean", "fgsm", "pgd-STEPS" such as "pgd-20", or "autoattack", in any case.
        version: of AutoAttack: "standard", "plus" or "rand".

    Raises:
        InputError: for another name.
    """
    lowered = name.strip().lower()
    if lowered == "clean":
        return None
    if lowered == "fgsm":
        return GradientAttack(steps=1)
    if lowered == "autoattack":
        if version not in VERSIONS:
            raise unknown("AutoAttack version", version, VERSIONS)
        return AutoAttack(version)
    if match := re.fullmatch(r"pgd-(\d+)", lowered):
        steps = int(match.group(1))
        if steps < 2:
            raise InputError(f"attack was {name!r}; PGD needs at least 2 steps. One step is fgsm.")
        return GradientAttack(steps)
    raise unknown("attack", name, ("clean", "fgsm", "pgd-20", "autoattack"))
