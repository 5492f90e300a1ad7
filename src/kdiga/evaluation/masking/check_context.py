"""What every check shares: the model, its examples, and measurements that run once and are then cached."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kdiga.errors import InputError
from kdiga.evaluation.stages import AttackSettings
from kdiga.model_output import logits_at, type_of
from kdiga.model_state import mix_seed
from kdiga.runs.fingerprints import fingerprint_of_tensors
from kdiga.runs.work_units import WorkUnit, run_work_units
from kdiga.types import ThreatModel

Measure = Callable[[Tensor, Tensor, int], list[Any]]
"""Maps images, labels and a seed to one plain value an example."""


class NotFiniteError(InputError):
    """The checked model returned logits that are not finite for images near the given ones: a finding of its check."""


class DifferentiableModel(nn.Module):
    """A model that always has a finite input gradient: zero where the wrapped model has none, or one of NaN.

    Otherwise a model without a gradient would stop an attack with an error.

    Args:
        model: Network from images to logits, in eval mode, with frozen parameters.
        role: Name of the model in error messages.
    """

    def __init__(self, model: nn.Module, role: str = "model") -> None:
        super().__init__()
        self.model, self.role = model, role
        self.training = False  # only this wrapper

    def forward(self, images: Tensor) -> Tensor:
        """Return logits; they must be finite."""
        images = images.view_as(images)
        if images.requires_grad:
            images.register_hook(lambda gradient: gradient.nan_to_num(0.0, 0.0, 0.0).contiguous())
        return self.with_own_gradient(images)

    def with_own_gradient(self, images: Tensor) -> Tensor:
        """Return logits with the gradient of the wrapped model, NaN included; zero if it has none."""
        logits = logits_at(self.model, images)
        if not bool(logits.isfinite().all()):
            raise (NotFiniteError if self.role == "model" else InputError)(
                f"the {self.role} returned logits that are not finite for images in [0, 1] near the given ones; "
                "its weights are damaged or diverged."
            )
        if images.requires_grad:
            logits = logits + 0 * images.flatten(1).sum(1, keepdim=True).to(logits.dtype)
        return logits

    def resolution(self, logits: Tensor) -> float:
        """Return the relative rounding of logits: that of the parameters' type where it is the coarser one."""
        types = {logits.dtype, type_of(self.model) or logits.dtype}
        return max(torch.finfo(one).eps for one in types)


@dataclass(frozen=True)
class CheckContext:
    """What a check has to work with.

    Args:
        model: Model in eval mode, with frozen parameters.
        sources: Other models by name, whose adversarial images are tried on the model.
        given_images: First images, classified correctly or not, float (example, channel, height, width).
        given_labels: Labels of ``given_images``, int64 (example,).
        images: Correctly classified images, which attacks use.
        labels: Labels of ``images``.
        settings: Threat model, seed, batch size, result cache and progress of all measurements.
        training: Names of submodules that were in train mode before the checks.
        initial_logits: Logits of the given images in these modes; None if all was in eval mode or the model raised
            an error.
        identity: Fingerprints and versions that decide a measurement in addition to its own settings.
    """

    model: DifferentiableModel
    sources: Mapping[str, DifferentiableModel]
    given_images: Tensor
    given_labels: Tensor
    images: Tensor
    labels: Tensor
    settings: AttackSettings
    training: Sequence[str]
    initial_logits: Tensor | None
    identity: Mapping[str, Any]

    @property
    def threat(self) -> ThreatModel:
        """Threat model whose robust accuracy is checked."""
        return self.settings.threat

    def measure(self, task: str, settings: Mapping[str, Any], measure: Measure) -> list[Any]:
        """Return one plain value for each correctly classified example, measured once and then cached.

        Args:
            task: Name of the measurement, for progress.
            settings: Plain data that decides the outcome in addition to model, examples, threat model and seed.
            measure: Function that measures one batch.
        """
        work_units = list[WorkUnit]()
        size = self.settings.batch_size
        for number, (images, labels) in enumerate(zip(self.images.split(size), self.labels.split(size), strict=True)):
            seed = mix_seed(self.settings.seed, number)
            key = {
                "masking": task,
                "settings": dict(settings),
                "examples": fingerprint_of_tensors(images, labels),
                "threat": [self.threat.norm, self.threat.eps],
                "seed": seed,
                **self.identity,
            }
            work_units.append(WorkUnit(f"masking: {task}", key, len(labels), partial(measure, images, labels, seed)))
        outcomes: list[list[Any]] = run_work_units(work_units, self.settings.result_cache, self.settings.progress)
        return [value for outcome in outcomes for value in outcome]

    def fooled(self, task: str, settings: Mapping[str, Any], attack: Measure, *, among: Tensor | None = None) -> Tensor:
        """Return which examples an attack fools, bool (example,), on the CPU.

        Args:
            task: As in :meth:`measure`.
            settings: As in :meth:`measure`.
            attack: Function that returns 1 for each fooled example of a batch, otherwise 0.
            among: Examples to attack, bool (example,), on the CPU; the others count as not fooled. None: all.
        """
        if among is None:
            return torch.tensor(self.measure(task, settings, attack), dtype=torch.bool)
        fooled = torch.zeros(len(self.labels), dtype=torch.bool)
        if among.any():
            rows = among.to(self.labels.device)
            part = replace(self, images=self.images[rows], labels=self.labels[rows])
            chosen = "".join(map(str, among.int().tolist()))
            found = part.measure(task, {**settings, "among": chosen}, attack)
            fooled[among] = torch.tensor(found, dtype=torch.bool)
        return fooled
