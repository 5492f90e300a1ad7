"""What all checks share: the model, the examples they look at, and measurements that are made once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kdiga.evaluation.masking.exposed import Exposed
from kdiga.model_state import mix_seed
from kdiga.runs.fingerprints import fingerprint_of_tensors
from kdiga.runs.work_units import OnProgress, ResultCache, WorkUnit, run_work_units
from kdiga.types import ThreatModel

BATCH = 50  # examples measured, and kept, together

Work = Callable[[Tensor, Tensor, int], list[Any]]
"""Maps images, labels and a seed to one plain value an example."""


@dataclass(frozen=True)
class HandedIn:
    """The model as it came.

    Args:
        training: names of submodules that were in train mode.
        logits: float (example, num_classes), its answers in the modes it was in; None where all was in eval mode,
            or where it could not answer so.
    """

    training: Sequence[str]
    logits: Tensor | None


@dataclass(frozen=True)
class Probe:
    """A model under examination.

    Args:
        model: in eval mode, its parameters frozen.
        teacher: the same, or None.
        shown: float (example, channel, height, width): images as given, right or wrong.
        shown_labels: int64 (example,), theirs.
        images: those examples that the model gets right, which attacks look at.
        labels: theirs.
        threat: the ball to stay in.
        seed: of random starts.
        handed_in: how the model came.
        result_cache: where measurements are kept.
        about: what decides a measurement, beside its own settings: fingerprints and versions.
        on_progress: told the measurement, examples done and examples in all.
    """

    model: Exposed
    teacher: Exposed | None
    shown: Tensor
    shown_labels: Tensor
    images: Tensor
    labels: Tensor
    threat: ThreatModel
    seed: int
    handed_in: HandedIn
    result_cache: ResultCache
    about: Mapping[str, Any]
    on_progress: OnProgress | None = None

    def measure(self, task: str, settings: Mapping[str, Any], work: Work) -> list[Any]:
        """Return one plain value for each example that the model gets right; measured once, then remembered.

        Args:
            task: what is measured, for progress.
            settings: plain data: what decides the outcome beside model, examples, threat model and seed.
            work: measures one batch.
        """
        work_units = list[WorkUnit]()
        for place, start in enumerate(range(0, len(self.labels), BATCH)):
            images, labels = self.images[start : start + BATCH], self.labels[start : start + BATCH]
            seed = mix_seed(self.seed, place)
            key = {
                "masking": task,
                "settings": dict(settings),
                "examples": fingerprint_of_tensors(images, labels),
                "threat": [self.threat.norm, self.threat.eps],
                "seed": seed,
                **self.about,
            }
            work_units.append(WorkUnit(f"masking: {task}", key, len(labels), partial(work, images, labels, seed)))
        outcomes: list[list[Any]] = run_work_units(work_units, self.result_cache, self.on_progress)
        return [value for outcome in outcomes for value in outcome]

    def fooled(self, task: str, settings: Mapping[str, Any], work: Work, *, among: Tensor | None = None) -> Tensor:
        """Return bool (example,), on the CPU: which examples an attack fools.

        Args:
            task: as in :meth:`measure`.
            settings: as in :meth:`measure`.
            work: returns 1 for an example that is fooled, else 0.
            among: bool (example,), on the CPU: only these are attacked; the others count as not fooled.
        """
        if among is None:
            return torch.tensor(self.measure(task, settings, work), dtype=torch.bool)
        chosen = "".join(map(str, among.int().tolist()))
        fooled = torch.zeros(len(self.labels), dtype=torch.bool)
        if among.any():
            rows = among.to(self.labels.device)
            part = replace(self, images=self.images[rows], labels=self.labels[rows])
            found = part.measure(task, {**settings, "among": chosen}, work)
            fooled[among] = torch.tensor(found, dtype=torch.bool)
        return fooled
