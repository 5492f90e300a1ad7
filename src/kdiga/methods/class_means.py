"""Means of per-example values by class, for methods that weigh classes by how they were learnt so far."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from kdiga import losses
from kdiga.distributed import batch_shards
from kdiga.methods.context import StepContext

SUM, EXAMPLES = "sum of ", "examples"  # keys of a method's memory


def classes_of(labels: Tensor) -> Tensor:
    """Return each example's class, int64 (batch,), -100 without a label; of soft labels the most probable."""
    return labels.argmax(1) if labels.dim() == 2 else labels


def of_class(values: Tensor, labels: Tensor) -> Tensor:
    """Return each example's entry of a value by class; 1 for an example without a label."""
    classes = classes_of(labels)
    return torch.where(classes >= 0, values[classes.clamp_min(0)], torch.ones_like(values[:1]))


def add_to_means(step: StepContext, count: int, values: Mapping[str, Tensor]) -> None:
    """Add per-example values to the method's memory, by class and over all processes; ``count`` is of classes."""
    labels = classes_of(step.batch.labels)
    ones = torch.ones(len(labels), dtype=torch.float64, device=labels.device)
    members = losses.label_probabilities(labels, ones[:, None].expand(-1, count))
    for name, value in {**values, EXAMPLES: ones}.items():
        own = (value.detach().double()[:, None] * members).sum(0)
        added = batch_shards.current_shard().gather(own).reshape(-1, count).sum(0)
        before = step.memory.get(SUM + name)
        step.memory[SUM + name] = added if before is None else before.to(added.device) + added


def means_if_due(step: StepContext, updates: int) -> dict[str, Tensor] | None:
    """Return the means by class since the last update, float64; None between the ``updates`` of a whole training.

    A class without an example has the mean of the other classes.
    """
    memory = step.memory
    due = int(step.progress * updates)
    if due <= memory.get("updates", 0):
        return None
    memory["updates"] = due
    sums = {name: memory.pop(name) for name in list(memory) if name.startswith(SUM)}
    if not sums:
        return None
    counts = sums.pop(SUM + EXAMPLES)
    seen = counts > 0
    means = {name.removeprefix(SUM): one / counts.clamp_min(1) for name, one in sums.items()}
    return {name: torch.where(seen, one, one.sum() / seen.sum().clamp_min(1)) for name, one in means.items()}
