"""Averages of weights: of a run's steps or epochs, and of a student before and after training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from kdiga.model_output import logits_at
from kdiga.model_state import copied

WARM_UP_POWER = 2 / 3


class MovingAverage:
    """The exponential moving average of a model's parameters and buffers.

    After step ``n``, from 1, ``average += (1 - d) * (model - average)`` with ``d = min(decay, 1 - n**(-2/3))``: the
    first step replaces the average, and early weights lose their influence soon.

    Args:
        model: Model to average.
        decay: Largest decay ``d``, in (0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        from timm.utils.model_ema import ModelEmaV3  # here, because timm loads slowly

        once = _EachTensorOnce(copied(model))
        self._average = ModelEmaV3(once, decay=decay, use_warmup=True, warmup_power=WARM_UP_POWER, foreach=True)

    @property
    def module(self) -> nn.Module:
        """The averaged model, in eval mode."""
        return cast("_EachTensorOnce", self._average.module).model

    def update(self, model: nn.Module, step: int) -> None:
        """Add the model after a step, from 1."""
        self._average.update(_EachTensorOnce(model), step=step)


class _EachTensorOnce(nn.Module):
    """A model with a state that has each tensor once: timm averages a tied weight once for each of its names."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return parameters and buffers by number."""
        tensors = chain(self.model.parameters(), self.model.buffers())
        return {str(number): tensor.detach() for number, tensor in enumerate(tensors)}


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
        return _estimate_statistics(self.module, norms, batches)


@torch.no_grad()
def interpolated(start: nn.Module, trained: nn.Module, share: float, batches: Iterable[Tensor]) -> nn.Module:
    """Return a network whose weights lie between those before and after training (WiSE-FT, Wortsman et al., 2022).

    Each parameter and floating-point buffer is ``start + share * (trained - start)`` (arXiv:2109.01903, section 3).
    Running statistics of batch norm belong to weights, so those that training changed are estimated again.

    Args:
        start: Network before training.
        trained: The same network after training; other buffers, such as counters, are its own.
        share: Share of the change by training, in [0, 1].
        batches: Batches of training images for the statistics; not read where training left all statistics.
    """
    between = copied(trained).eval()
    # Not the state dict, which has a tied weight twice.
    own, earlier = (chain(one.parameters(), one.buffers()) for one in (between, start))
    for value, before in zip(own, earlier, strict=True):
        if value.is_floating_point():
            value.copy_(before.to(value).lerp(value, share))
    pairs = zip(start.modules(), trained.modules(), between.modules(), strict=True)
    norms = [own for before, after, own in pairs if isinstance(own, _BatchNorm) and _moved(before, after)]
    _estimate_statistics(between, norms, batches)
    return between


def _moved(before: nn.Module, after: nn.Module) -> bool:
    """Return whether the running statistics of two modules differ; counters do not matter."""
    pairs = zip(before.buffers(recurse=False), after.buffers(recurse=False), strict=True)
    return not all(torch.equal(old, new.to(old)) for old, new in pairs if old.is_floating_point())


def _estimate_statistics(model: nn.Module, norms: Sequence[_BatchNorm], batches: Iterable[Tensor]) -> int:
    """Set running statistics to their means over batches, in eval mode otherwise; return the number of passes."""
    momenta, passes = [norm.momentum for norm in norms], 0
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean
        norm.train()
    for images in batches if norms else ():
        logits_at(model, images)
        passes += 1
    model.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return passes
