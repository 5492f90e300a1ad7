"""Batch norm in several processes: statistics of the whole batch, and running statistics of models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from kdiga.distributed.batch_shards import sum_over_processes
from kdiga.distributed.process_group import ProcessGroup
from kdiga.errors import InputError

PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class SyncBatchNorm(_BatchNorm):
    """Batch norm over the examples of all processes, on any device, differentiable twice.

    ``nn.SyncBatchNorm`` runs on GPUs only and cannot be differentiated twice, as the exact route needs. This class
    computes the formula with differentiable operations: ``(x - mean) / sqrt(var + eps) * weight + bias``.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised input, with two small sums over processes in train mode."""
        if not self.training:
            return super().forward(input)
        values = input.float() if input.dtype in (torch.bfloat16, torch.float16) else input
        over, shape = [0, *range(2, values.dim())], (1, -1, *(1,) * (values.dim() - 2))
        count = values.numel() // values.shape[1] * dist.get_world_size()  # all processes have as many examples
        mean = sum_over_processes(values.sum(over)) / count
        centred = values - mean.view(shape)
        variance = sum_over_processes(centred.square().sum(over)) / count
        self._update(mean.detach(), variance.detach() * (count / (count - 1)))
        scale = torch.rsqrt(variance + self.eps)
        if self.affine:
            return (centred * (scale * self.weight).view(shape) + self.bias.view(shape)).to(input.dtype)
        return (centred * scale.view(shape)).to(input.dtype)

    def _check_input_dim(self, input: Tensor) -> None:
        """Accept any number of dimensions; the replaced class has checked them."""

    def _update(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
        with torch.no_grad():
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
            self.running_var.lerp_(variance.to(self.running_var.dtype), share)


def share_statistics(models: Sequence[nn.Module | None], process_group: ProcessGroup) -> Callable[[], None]:
    """Replace batch norm by :class:`SyncBatchNorm` in several processes, and return a function that undoes it.

    Raises:
        InputError: If a model has a subclass of batch norm, which may compute more than the formula.
    """
    swapped: list[tuple[nn.Module, type[nn.Module]]] = []
    for module in (one for model in models if model is not None for one in model.modules()):
        if process_group.count == 1 or not isinstance(module, _BatchNorm):
            continue
        if type(module) not in PLAIN:
            raise InputError(
                f"sync_batch_norm was true and the model has {type(module).__name__} layers, which do more than batch "
                "norm; leave it false, or take a model with plain ones."
            )
        swapped.append((module, cast("type[nn.Module]", type(module))))
        module.__class__ = SyncBatchNorm

    def undo() -> None:
        for module, kind in swapped:
            module.__class__ = kind

    return undo


def running_statistics(models: Sequence[nn.Module | None]) -> list[Tensor]:
    """Return batch norm's running means and variances, of all models in order."""
    return [
        buffer
        for model in models
        if model is not None
        for module in model.modules()
        if isinstance(module, _BatchNorm)
        for buffer in (module.running_mean, module.running_var)
        if isinstance(buffer, Tensor)
    ]
