"""The long work of an explanation in portions: everything that decides an outcome is in its key."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from kdiga.analysis.measures import OfModel, OfPair, measure_model, measure_pair
from kdiga.analysis.scores import Connected
from kdiga.analysis.worst_case import WorstCaseSearch
from kdiga.evaluation import AttackResult, evaluate
from kdiga.model_state import device_of, evaluating, seeded
from kdiga.runs.fingerprints import fingerprint_of_model, fingerprint_of_tensors
from kdiga.runs.work_units import OnProgress, ResultCache, WorkUnit, run_work_units
from kdiga.types import ThreatModel

PART = 100  # examples measured together, and kept together
MODEL_STREAM, PAIR_STREAM = 11, 12  # which of the seed's random streams restarts are drawn from

Measure = Callable[[Tensor, Tensor], Mapping[str, Any]]


class Work:
    """Measures models on the same images, each portion kept on a shelf.

    Args:
        images: float (example, channel, height, width), pixels in [0, 1], checked.
        labels: int64 (example,).
        threat: the ball.
        search: for its worst images.
        seed: of random starts.
        result_cache: where outcomes are kept.
        on_progress: told the task, examples done and examples in all.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        threat: ThreatModel,
        search: WorstCaseSearch,
        seed: int,
        result_cache: ResultCache,
        on_progress: OnProgress | None,
    ) -> None:
        self.images, self.labels, self.threat, self.search, self.seed = images, labels, threat, search, seed
        self.result_cache, self.on_progress = result_cache, on_progress
        self.common = {"threat": [threat.norm, threat.eps], "seed": seed, "search": search.to_dict()}
        self.prints = dict[int, str]()

    def of_models(self, models: Sequence[nn.Module]) -> list[OfModel]:
        """Return each model's own measures."""

        def about(model: nn.Module) -> tuple[dict[str, str], Measure]:
            return {"work": "linearity", "model": self._print(model)}, lambda images, labels: measure_model(
                model, images.to(device_of(model)), labels.to(device_of(model)), self.threat, self.search
            )

        outcomes = self._done("local linearity", MODEL_STREAM, [about(model) for model in models])
        return cast("list[OfModel]", outcomes)

    def of_pairs(self, teacher: nn.Module, students: Sequence[nn.Module]) -> list[OfPair]:
        """Return each student's measures beside the teacher's; both on one device."""
        device = device_of(teacher)

        def about(student: nn.Module) -> tuple[dict[str, str], Measure]:
            key = {"work": "bounds", "teacher": self._print(teacher), "student": self._print(student)}
            return key, lambda images, labels: measure_pair(
                teacher, student, images.to(device), labels.to(device), self.threat, self.search
            )

        return cast("list[OfPair]", self._done("bounds", PAIR_STREAM, [about(student) for student in students]))

    def attacked(self, model: nn.Module, attack: str, folder: Path | None) -> tuple[Sequence[bool], AttackResult]:
        """Return which examples a model gets right, and what an attack leaves of them; kept in a folder."""
        target = model if is_differentiable(model, self.images[:1]) else Connected(model)
        report = evaluate(
            target,
            [(self.images, self.labels)],
            eps=self.threat.eps,
            norm=self.threat.norm,
            attacks=[attack],
            seed=self.seed,
            folder=folder,
            progress=self.on_progress,
        )
        return report.results["clean"].correct, next(
            result for name, result in report.results.items() if name != "clean"
        )

    def _done(
        self, task: str, stream: int, wanted: Sequence[tuple[dict[str, str], Measure]]
    ) -> list[dict[str, list[Any]]]:
        """Return for each thing wanted its measures, joined over the parts."""
        parts = list(zip(self.images.split(PART), self.labels.split(PART), strict=True))
        prints = [fingerprint_of_tensors(*part) for part in parts]
        work_units = [
            WorkUnit(
                task,
                about | self.common | {"batch": prints[place], "place": place},
                len(part[0]),
                self._at(place, stream, measure, part),
            )
            for about, measure in wanted
            for place, part in enumerate(parts)
        ]
        outcomes: list[dict[str, list[Any]]] = run_work_units(work_units, self.result_cache, self.on_progress)
        grouped = [outcomes[start : start + len(parts)] for start in range(0, len(outcomes), len(parts))]
        return [{name: [value for one in group for value in one[name]] for name in group[0]} for group in grouped]

    def _at(self, place: int, stream: int, measure: Measure, part: tuple[Tensor, Tensor]) -> Callable[[], Any]:
        def work() -> dict[str, Any]:
            with seeded(self.seed, stream, place):
                return dict(measure(*part))

        return work

    def _print(self, model: nn.Module) -> str:
        if id(model) not in self.prints:
            self.prints[id(model)] = fingerprint_of_model(model)
        return self.prints[id(model)]


def is_differentiable(model: nn.Module, images: Tensor) -> bool:
    """Return whether autograd finds a way from a model's logits back to its input."""
    with torch.enable_grad(), evaluating(model):
        inputs = images.to(device_of(model)).detach().clone().requires_grad_()
        logits = model(inputs)
        if not logits.requires_grad:
            return False
        logits.sum().backward(inputs=[inputs])
    return inputs.grad is not None
