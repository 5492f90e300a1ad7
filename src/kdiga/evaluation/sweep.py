"""Accuracy against eps: the curve that shows where robustness ends."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdiga.errors import InputError
from kdiga.evaluation.attacks import attack_by_name
from kdiga.evaluation.chunks import Target, attack_all
from kdiga.evaluation.evaluate import BATCH_SIZE, gather
from kdiga.model_state import evaluating, frozen_parameters
from kdiga.runs.work_units import OnProgress, ResultCache
from kdiga.statistics import clopper_pearson
from kdiga.types import ThreatModel


@dataclass(frozen=True)
class EpsSweep:
    """Accuracy at several eps.

    Args:
        attack: that was used at each.
        eps: rising.
        correct: for each eps, whether each example is still classified correctly.
    """

    attack: str
    eps: Sequence[float]
    correct: Sequence[Sequence[bool]]

    @property
    def accuracy(self) -> list[float]:
        """Share of all examples still right at each eps, in [0, 1]."""
        return [sum(right) / len(right) for right in self.correct]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data, with 95 % Clopper-Pearson intervals."""
        return {
            "attack": self.attack,
            "eps": list(self.eps),
            "accuracy": self.accuracy,
            "interval_95": [list(clopper_pearson(sum(right), len(right))) for right in self.correct],
            "correct": [[int(one) for one in right] for right in self.correct],
        }


def sweep(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    eps_values: Sequence[float],
    norm: str = "linf",
    attack: str = "pgd-20",
    examples: int | None = None,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    folder: Path | None = None,
    progress: OnProgress | None = None,
) -> EpsSweep:
    """Measure the accuracy at each eps under one attack; at eps 0 it is the clean accuracy.

    An example that falls at one eps counts as fallen at every larger one, where the same attack may
    have missed, and is not attacked again: the true curve never rises.

    Args:
        model: maps images to logits (batch, num_classes).
        batches: pairs of images, float (batch, channel, height, width) in [0, 1], and int labels.
        eps_values: rising, from 0.
        norm: "linf" or "l2".
        attack: as in :func:`kdiga.evaluate`.
        examples: only the first so many; None for all.
        seed: of random starts.
        batch_size: examples attacked together.
        folder: where finished portions are kept, as in :func:`kdiga.evaluate`.
        progress: called with attack and eps, examples done and examples to do.

    Raises:
        InputError: for eps values that do not rise from 0 or more, and as :func:`kdiga.evaluate` does.
    """
    threats = [ThreatModel.parse(norm, eps) for eps in eps_values]
    rising = all(first.eps < second.eps for first, second in itertools.pairwise(threats))
    if not threats or not rising:
        raise InputError(f"eps values were {list(eps_values)}; give at least one, each larger than the one before.")
    chosen = attack_by_name(attack)
    if chosen is None:
        raise InputError("the attack of a sweep was 'clean'; name one that uses eps, for example pgd-20.")
    images, labels = gather(batches, examples)
    result_cache, correct = ResultCache(folder), list[Sequence[bool]]()
    with evaluating(model), frozen_parameters(model):
        target = Target.of(model, images, labels, batch_size, keyed=folder is not None)
        standing = target.standing
        for threat in threats:
            if threat.eps > 0:
                part = Target(model, target.images, target.labels, standing, target.fingerprint)
                report = attack_all(
                    part,
                    chosen,
                    threat=threat,
                    seed=seed,
                    batch_size=batch_size,
                    result_cache=result_cache,
                    progress=_with_eps(progress, threat.eps),
                )
                standing = torch.tensor(report.correct)
            correct.append(tuple(standing.tolist()))
    return EpsSweep(chosen.name, [threat.eps for threat in threats], correct)


def _with_eps(progress: OnProgress | None, eps: float) -> OnProgress | None:
    if progress is None:
        return None
    return lambda attack, done, total: progress(f"{attack} at eps {eps:.3g}", done, total)
