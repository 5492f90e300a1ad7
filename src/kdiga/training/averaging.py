"""Averages of a run's weights, which are validated and saved in the student's place."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from kdiga.model_output import logits_at
from kdiga.model_state import copied

if TYPE_CHECKING:
    from timm.utils.model_ema import ModelEmaV3

WARM_UP_POWER = 2 / 3


def moving_average(model: nn.Module, decay: float) -> ModelEmaV3 | None:
    """Return the exponential moving average of a model's parameters and buffers; None for a decay of 0.

    After step ``n``, from 1, ``average += (1 - d) * (model - average)`` with ``d = min(decay, 1 - n**(-2/3))``: the
    first step replaces the average, and early weights lose their influence soon.
    """
    if not decay:
        return None
    from timm.utils.model_ema import ModelEmaV3  # here, because timm loads slowly

    return ModelEmaV3(copied(model), decay=decay, use_warmup=True, warmup_power=WARM_UP_POWER, foreach=True)


class EpochAverage:
    """The mean of the weights at the end of epochs, with equal shares (Izmailov et al., 2018, arXiv:1803.05407).

    Before the first averaged epoch it is the student as it is.

    Args:
        student: Student.
        begin: Share of the training, in [0, 1); epochs that end at this share or later are averaged.
        epochs: Number of epochs of the run.
    """

    def __init__(self, student: nn.Module, begin: float, epochs: int) -> None:
        self.module = copied(student)
        # Rounded: 0.7 of 10 epochs are 7.
        self._first = next(epoch for epoch in range(epochs) if round((epoch + 1) / epochs - begin, 9) >= 0)

    def add(self, student: nn.Module, epoch: int) -> bool:
        """Add the weights of the student after an epoch, from 0; return whether they were averaged with others.

        Statistics and other buffers are the student's; see :func:`estimate_statistics`.
        """
        count = max(1, epoch - self._first + 1)
        with torch.no_grad():
            for mean, weight in zip(self.module.parameters(), student.parameters(), strict=True):
                mean.lerp_(weight, 1 / count)
            for mean, buffer in zip(self.module.buffers(), student.buffers(), strict=True):
                mean.copy_(buffer)
        return count > 1

    @torch.no_grad()
    def estimate_statistics(self, student: nn.Module, batches: Iterable[Tensor]) -> int:
        """Set batch norm's running statistics to their means over batches of images; return the number of passes.

        Batch norm that the student has in eval mode keeps its statistics. Dropout is off.
        """
        pairs = zip(self.module.modules(), student.modules(), strict=True)
        norms = [
            own for own, other in pairs if isinstance(own, _BatchNorm) and other.training and own.track_running_stats
        ]
        momenta, passes = [norm.momentum for norm in norms], 0
        self.module.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean
            norm.train()
        for images in batches if norms else ():
            logits_at(self.module, images)
            passes += 1
        self.module.eval()
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        return passes
