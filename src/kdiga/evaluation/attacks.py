"""The attacks of an evaluation, by name: each a few stages, every stage trying what the ones before left standing."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from kdiga.attacks import PGD
from kdiga.errors import InputError, unknown
from kdiga.evaluation.autoattack import VERSIONS, autoattack_stages
from kdiga.evaluation.outcome import StageOutcome
from kdiga.losses import cross_entropy, margin
from kdiga.model_state import mix_seed, seeded
from kdiga.types import ThreatModel

EXAMPLES = ("clean", "fgsm", "pgd-20", "pgd-40x5", "cw-40", "autoattack")
OBJECTIVES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"pgd": cross_entropy, "cw": margin}


class Stage(Protocol):
    """One try at examples that a model still gets right."""

    @property
    def name(self) -> str:
        """What the stage is called in results."""
        ...

    @property
    def forwards(self) -> int:
        """About how many forward passes an example takes at most: the measure of progress."""
        ...

    @property
    def backwards(self) -> int:
        """About how many backward passes to the images an example takes at most."""
        ...

    def key(self) -> dict[str, Any]:
        """Return all settings as plain data; the names in it do not follow the names in the code."""
        ...

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, threat: ThreatModel, seed: int
    ) -> StageOutcome:
        """Return which examples are still right.

        Args:
            model: in eval mode, its parameters frozen.
            images: float (batch, channel, height, width), contiguous, all classified correctly.
            labels: int64 (batch,).
            threat: the ball to stay in.
            seed: of random starts.
        """
        ...


class Attack(NamedTuple):
    """A named attack and its stages, strongest or cheapest first."""

    name: str
    stages: Sequence[Stage]


@dataclass(frozen=True)
class GradientStage:
    """FGSM, or PGD from one uniform start, on the cross-entropy or on the margin; step size eps / 4.

    An example counts as fooled if the iterate with the highest objective is misclassified.

    Args:
        objective: "pgd" for the cross-entropy, "cw" for the margin of Carlini and Wagner (2017).
        steps: 1 is FGSM, from the image itself.
        restart: which of several starts, from 0.
    """

    objective: str
    steps: int
    restart: int = 0

    @property
    def name(self) -> str:
        """Which start it is."""
        return f"start {self.restart + 1}"

    @property
    def forwards(self) -> int:
        """A step's forward pass, and one or two to look at the last iterate."""
        return self.steps + 2

    @property
    def backwards(self) -> int:
        """One a step."""
        return self.steps

    def key(self) -> dict[str, Any]:
        """Return the settings as plain data."""
        return {"stage": "gradient", "objective": self.objective, "steps": self.steps, "restart": self.restart}

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, threat: ThreatModel, seed: int
    ) -> StageOutcome:
        """Return which examples are still right."""
        single = self.steps == 1
        attack = PGD(threat=threat, steps=self.steps, start="clean" if single else "uniform", keep_best=not single)
        objective = OBJECTIVES[self.objective]
        with seeded(seed_at(seed, self.restart)):
            adv_images = attack(lambda candidates: objective(model(candidates), labels), images)
        with torch.no_grad():
            return StageOutcome((model(adv_images).argmax(1) == labels).cpu())


def seed_at(seed: int, place: int) -> int:
    """Return the seed of a place in a sequence; the first place keeps the seed itself, as a call by hand would."""
    return seed if place == 0 else mix_seed(seed, place) % 2**31


def attack_by_name(name: str, *, version: str = "standard") -> Attack | None:
    """Return the attack of that name; None for "clean", which needs none.

    Args:
        name: "clean", "fgsm", "pgd-STEPS", "cw-STEPS" (PGD on the margin), "pgd-STEPSxRESTARTS",
            "cw-STEPSxRESTARTS" or "autoattack", in any case.
        version: of AutoAttack: "standard", "plus" or "rand".

    Raises:
        InputError: for another name.
    """
    lowered = name.strip().lower()
    if lowered == "clean":
        return None
    if lowered == "fgsm":
        return Attack(lowered, [GradientStage("pgd", 1)])
    if lowered == "autoattack":
        if version not in VERSIONS:
            raise unknown("AutoAttack version", version, VERSIONS)
        return Attack(lowered, autoattack_stages(version))
    if match := re.fullmatch(r"(pgd|cw)-(\d+)(?:x(\d+))?", lowered):
        steps, restarts = int(match[2]), int(match[3] or 1)
        if steps < 2 or restarts < 1:
            raise InputError(
                f"attack was {name!r}; it needs at least 2 steps and 1 restart, as in pgd-40x5. One step is fgsm."
            )
        return Attack(lowered, [GradientStage(match[1], steps, restart) for restart in range(restarts)])
    raise unknown("attack", name, EXAMPLES)
