"""What a stage of an attack is: it tries the examples that earlier stages leave correctly classified."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kdiga.attacks.balls import within
from kdiga.model_output import logits_at
from kdiga.model_state import mix_seed
from kdiga.runs.work_units import OnProgress, ResultCache
from kdiga.types import ThreatModel


@dataclass(frozen=True)
class AttackSettings:
    """Settings that do not depend on the attack.

    Args:
        threat: Norm and eps.
        seed: Seed of random starts.
        batch_size: Number of examples attacked and cached together. Random starts depend on it.
        result_cache: Cache of the outcome of each batch.
        progress: Function called with the attack, examples done and examples in total; None without one.
    """

    threat: ThreatModel
    seed: int
    batch_size: int
    result_cache: ResultCache = field(default_factory=ResultCache)
    progress: OnProgress | None = None

    def labelled(self, label: str) -> AttackSettings:
        """Return the settings with a label after the name of the attack in progress."""
        progress = self.progress
        if progress is None:
            return self
        return replace(self, progress=lambda attack, done, total: progress(f"{attack} {label}", done, total))


class StageOutcome(NamedTuple):
    """The outcome of one stage.

    Args:
        correct: Whether each example is still classified correctly, bool (batch,), on the CPU.
        adv_images: Adversarial images, one for each example.
        notes: Warnings of the attack.
    """

    correct: Tensor
    adv_images: Tensor
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Stage:
    """One attempt to fool examples.

    Args:
        name: Name in results.
        forwards: Approximate number of forward passes of an example that is never fooled.
        backwards: Approximate number of backward passes to the images of an example that is never fooled.
        key: All settings as plain data for cache keys; the names in it stay when code is renamed.
        attack: Function from a network in eval mode with frozen parameters, images, labels, threat model and seed.
        of_autoattack: Whether it takes only correctly classified images and returns those it does not fool unchanged.
    """

    name: str
    forwards: int
    backwards: int
    key: Mapping[str, Any]
    attack: Callable[[nn.Module, Tensor, Tensor, ThreatModel, int], StageOutcome]
    of_autoattack: bool = False


def seed_at(seed: int, index: int) -> int:
    """Return the seed of a batch or restart; index 0 keeps the seed itself, as a direct call would use it."""
    return seed if index == 0 else mix_seed(seed, index) % 2**31


class AttackedModel(nn.Module):
    """A model under attack that records where its logits or input gradients are not finite.

    An attack compares numbers, and every comparison with NaN is false: without this record such examples would count
    as robust. A gradient that is not finite becomes zero, so that the attack goes on. The logits do not change.

    Args:
        model: Network in eval mode, with frozen parameters.
        images: Images to attack, float (batch, channel, height, width).
        threat: Ball around the images. Logits outside of it do not count.
    """

    def __init__(self, model: nn.Module, images: Tensor, threat: ThreatModel) -> None:
        super().__init__()
        self.model, self.images, self.threat = model, images, threat
        self.training = False  # only this wrapper
        self.broken = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        self.broken_gradients = 0  # largest number of them in one backward pass

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        images = images.view_as(images)
        if images.requires_grad:
            images.register_hook(self._finite_gradient)
        logits = logits_at(self.model, images)
        finite = logits.detach().isfinite().all(1)
        if not bool(finite.all()):
            for image in images.detach()[~finite]:
                self.broken |= within(image[None], self.images, self.threat)
        return logits

    def _finite_gradient(self, gradient: Tensor) -> Tensor:
        finite = gradient.flatten(1).isfinite().all(1)
        if not bool(finite.all()):
            self.broken_gradients = max(self.broken_gradients, int((~finite).sum()))
            gradient = torch.where(gradient.isfinite(), gradient, 0)
        # The official attacks flatten gradients with ``view``, which fails for channels_last.
        return gradient.contiguous()
