"""Batches whose images and labels are blended: mixup (Zhang et al., 2018) and CutMix (Yun et al., 2019)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

from kdiga.data.feed import Feed
from kdiga.model_state import seeded_on_cpu
from kdiga.types import Batch

Blend = Literal["none", "mixup", "cutmix"]
BLEND = 104  # random stream of a seed


@dataclass(frozen=True)
class BlendedFeed:
    """The batches of another feed, each blended with itself by torchvision; their labels are probabilities.

    A batch depends on (seed, epoch, place) alone. Several processes blend their shares of it.

    Args:
        feed: Feed of batches with hard labels.
        blend: "mixup" or "cutmix", with a uniform ratio.
        num_classes: Number of classes.
        seed: Seed of the ratios and boxes, together with epoch and place.
    """

    feed: Feed
    blend: Blend
    num_classes: int
    seed: int

    def __len__(self) -> int:
        """Return the batches of an epoch."""
        return len(self.feed)

    def epoch(self, number: int, *, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of one epoch from ``start`` on."""
        for place, batch in enumerate(self.feed.epoch(number, start=start), start):
            with seeded_on_cpu(self.seed, BLEND, number, place):
                images, labels = self._transform(batch.images, batch.labels)
            yield replace(batch, images=images, labels=labels)

    @cached_property
    def _transform(self) -> Callable[..., Any]:
        from torchvision.transforms import v2  # few runs need it

        return {"mixup": v2.MixUp, "cutmix": v2.CutMix}[self.blend](num_classes=self.num_classes)
