"""The gradient attacks that checks compare, and what all of them together leave standing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from kdiga.attacks import PGD
from kdiga.evaluation.masking.probe import Probe
from kdiga.losses import cross_entropy, margin
from kdiga.model_state import seeded
from kdiga.types import ThreatModel

Objective = Literal["ce", "margin", "scaled-ce"]
STEPS = (1, 10, 40, 100)
TRAVEL = 2.5  # step size times steps, in eps: as far as the start may be from the best image, and back once


@dataclass(frozen=True)
class Ascent:
    """PGD that walks 2.5 eps in all, in as many steps as asked; one step is FGSM, from the image itself.

    The iterate with the highest objective counts. All ascents of a batch with several steps have the same start, so
    that they differ in what they are compared for alone.

    Args:
        objective: "ce", "margin" or "scaled-ce": the cross-entropy of the logits divided by the image's own margin
            where that is above 1, so that no exponential underflows. Small margins are left as they are: arithmetic
            hides nothing there, and another temperature would be another attack.
        steps: at least 1.
        eps: of the ball; its norm is the probe's.
    """

    objective: Objective
    steps: int
    eps: float

    def key(self) -> dict[str, Any]:
        """Return the settings as plain data."""
        return {"objective": self.objective, "steps": self.steps, "eps": self.eps}

    def fooled(self, probe: Probe, among: Tensor | None = None) -> Tensor:
        """Return bool (example,), on the CPU: which examples it fools."""

        def work(images: Tensor, labels: Tensor, seed: int) -> list[int]:
            threat = ThreatModel(probe.threat.norm, self.eps)
            attack = PGD(
                threat=threat,
                steps=self.steps,
                start="clean" if self.steps == 1 else "uniform",
                keep_best=True,
                step_size=self.eps if self.steps == 1 else TRAVEL * self.eps / self.steps,
            )
            with seeded(seed):
                adv_images = attack(self._objective(probe, images, labels), images)
            with torch.no_grad():
                return (probe.model(adv_images).argmax(1) != labels).int().tolist()

        return probe.fooled(f"{self.objective}-{self.steps} eps {self.eps:.3g}", self.key(), work, among=among)

    def _objective(self, probe: Probe, images: Tensor, labels: Tensor) -> Callable[[Tensor], Tensor]:
        if self.objective == "margin":
            return lambda candidates: margin(probe.model(candidates), labels)
        if self.objective == "ce":
            return lambda candidates: cross_entropy(probe.model(candidates), labels)
        with torch.no_grad():
            scale = margin(probe.model(images), labels).abs().clamp_min(1)[:, None]
        return lambda candidates: cross_entropy(probe.model(candidates) / scale, labels)


def white_box_left(probe: Probe) -> Tensor:
    """Return bool (example,), on the CPU: examples that stand after PGD on the cross-entropy and on the margin.

    With 1, 10, 40 and 100 steps, and with 40; other checks use the same ascents, which are made once.
    """
    eps = probe.threat.eps
    left = ~Ascent("margin", 40, eps).fooled(probe)
    for steps in STEPS:
        left &= ~Ascent("ce", steps, eps).fooled(probe)
    return left
