"""Measurements of models on the same images, as numbers per example, in resumable work units."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, cast

import torch
from torch import Tensor, nn

from kdiga.analysis.linearity import Expansion, cosines, dual_norm, gradient_distance, local_linearity
from kdiga.analysis.worst_case import Differentiable, WorstCaseSearch, loss_score
from kdiga.checks import check_examples, check_labels, check_logits, check_same_classes
from kdiga.errors import InputError
from kdiga.evaluation import AttackResult
from kdiga.evaluation.evaluate import warn_of
from kdiga.evaluation.measure import BATCH_SIZE, measure
from kdiga.evaluation.stages import AttackSettings
from kdiga.model_output import logits_at
from kdiga.model_state import device_of, evaluating, frozen_parameters, seeded
from kdiga.runs.chunks import Chunk, ChunkJob, run_chunks, split_chunks
from kdiga.runs.fingerprints import describe_model
from kdiga.runs.work_units import OnProgress, ResultCache
from kdiga.types import ThreatModel, refuse_l1

CHUNK_SIZE = 100  # examples per work unit
MODEL_STREAM, PAIR_STREAM = 11, 12  # random streams of the restarts


class ModelMeasures(TypedDict):
    """Measures of one model, one number per example, in nats; the gradient norm is in nats per pixel unit.

    ``change`` is the largest rise of the loss that a search finds. ``linearity`` is the largest remainder, including
    the remainder at the image of the largest rise.
    """

    loss: list[float]
    linearity: list[float]
    gradient_norm: list[float]
    change: list[float]


class PairMeasures(TypedDict):
    """Measures of a student and its teacher, one number per example, in nats except for the cosine.

    ``transfer`` is the largest distance of the two losses that a search finds; ``student_at_transfer`` and
    ``teacher_at_transfer`` are the remainders of both models at its image.
    """

    cosine: list[float | None]
    distance: list[float]
    clean_gap: list[float]
    transfer: list[float]
    student_at_transfer: list[float]
    teacher_at_transfer: list[float]


def measure_model(
    model: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, search: WorstCaseSearch
) -> ModelMeasures:
    """Return the measures of a model, which runs in eval mode and does not change.

    ``d = 0`` is in the ball, so a rise is at least 0. The random stream of the caller decides the starts.
    """
    with evaluating(model), frozen_parameters(model):
        expansion = Expansion.around(images, loss_score(model, labels))
        gamma, _ = local_linearity(expansion, threat, search)
        _, worst = search.largest(expansion.score, images, threat)
        with torch.no_grad():
            change = expansion.score(worst).double() - expansion.values
            gamma = torch.maximum(gamma, expansion.remainder(worst).abs())
    return {
        "loss": expansion.values.tolist(),
        "linearity": gamma.tolist(),
        "gradient_norm": dual_norm(expansion.gradient, threat).tolist(),
        "change": change.clamp_min(0).tolist(),
    }


def measure_pair(
    teacher: nn.Module, student: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, search: WorstCaseSearch
) -> PairMeasures:
    """Return the agreement of the input gradients of two models, and the largest distance of their losses in the ball.

    The search covers both signs of ``l_s(x+d) - l_t(x+d)``. ``d = 0`` is in the ball, so the distance is at least the
    gap on the clean image.
    """
    with evaluating(teacher), evaluating(student), frozen_parameters(teacher), frozen_parameters(student):
        own = Expansion.around(images, loss_score(student, labels))
        reference = Expansion.around(images, loss_score(teacher, labels))

        def difference(adv_images: Tensor) -> Tensor:
            return own.score(adv_images).double() - reference.score(adv_images).double()

        transfer, farthest = search.largest_absolute(difference, images, threat)
        with torch.no_grad():
            remainders = [expansion.remainder(farthest).abs().tolist() for expansion in (own, reference)]
    return {
        "cosine": list(cosines(own.gradient, reference.gradient)),
        "distance": gradient_distance(own.gradient, reference.gradient, threat).tolist(),
        "clean_gap": (own.values - reference.values).abs().tolist(),
        "transfer": transfer.tolist(),
        "student_at_transfer": remainders[0],
        "teacher_at_transfer": remainders[1],
    }


class Measurements:
    """Measures models on the same images, in work units that a result cache stores.

    Args:
        images: Float (example, channel, height, width), pixels in [0, 1].
        labels: Int (example,).
        threat: The ball; eps above 0.
        search: Search for the worst images; None is its defaults.
        seed: Seed of random starts and resamples.
        result_cache: Cache of finished work units; None caches in memory, for these measurements only. Models with the
            same printed form and ``state_dict`` share results.
        on_progress: Called with the task, the finished and the total number of examples.

    Raises:
        InputError: If eps is 0, there are no examples, or images or labels are out of range.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        threat: ThreatModel,
        search: WorstCaseSearch | None = None,
        seed: int = 0,
        result_cache: ResultCache | None = None,
        on_progress: OnProgress | None = None,
    ) -> None:
        if threat.eps == 0:
            raise InputError("eps was 0; a ball of radius 0 has nothing to search. Give an eps above 0.")
        refuse_l1(threat, "this measurement")
        check_examples(images, labels)
        self.images, self.labels, self.threat, self.seed = images, labels.long(), threat, seed
        self.chunks = split_chunks(self.images, self.labels, CHUNK_SIZE)
        self.search = search or WorstCaseSearch()
        self.result_cache, self.on_progress = result_cache or ResultCache(), on_progress
        self.common_key = {"threat": [threat.norm, threat.eps], "seed": seed, "search": self.search.to_dict()}

    def num_classes(self, models: Sequence[nn.Module]) -> int:
        """Check the logits of models on all images, and return their number of classes.

        Raises:
            InputError: If logits are not finite, labels are out of range, or the models have different classes.
        """
        checked = list[Tensor]()
        for model in models:
            device = device_of(model)
            with evaluating(model), torch.no_grad():
                for chunk in self.chunks:
                    checked.append(check_logits(logits_at(model, chunk.images.to(device)), chunk.images)[:1])
                    check_labels(chunk.labels, chunk.images, checked[-1].shape[1])
                    check_same_classes(checked[-1], checked[0])
        return checked[0].shape[1]

    def of_models(self, models: Sequence[nn.Module]) -> list[ModelMeasures]:
        """Return the measures of each model, on its device."""
        keys = [{"work": "linearity", "model": self._fingerprint(model)} for model in models]
        groups = [(model,) for model in models]
        return cast("list[ModelMeasures]", self._run("local linearity", MODEL_STREAM, measure_model, keys, groups))

    def of_pairs(self, teacher: nn.Module, students: Sequence[nn.Module]) -> list[PairMeasures]:
        """Return the measures of each student and the teacher, all on the device of the teacher."""
        prints = [self._fingerprint(model) for model in (teacher, *students)]
        keys = [{"work": "bounds", "teacher": prints[0], "student": student} for student in prints[1:]]
        groups = [(teacher, student) for student in students]
        return cast("list[PairMeasures]", self._run("bounds", PAIR_STREAM, measure_pair, keys, groups))

    def attacked(self, model: nn.Module, attack: str, folder: Path | None) -> tuple[Sequence[bool], AttackResult]:
        """Return whether each example is classified correctly, and the result of an attack, cached in a folder."""
        target = model if is_differentiable(model, self.images[:1]) else Differentiable(model)
        settings = AttackSettings(self.threat, self.seed, BATCH_SIZE, ResultCache(folder), self.on_progress)
        report = measure(target, [(self.images, self.labels)], settings, [attack])
        warn_of(report.findings)
        attacked = next(result for name, result in report.results.items() if name != "clean")
        return report.results["clean"].correct, attacked

    def _run(
        self,
        task: str,
        stream: int,
        measure: Callable[..., Mapping[str, Any]],
        keys: Sequence[Mapping[str, Any]],
        groups: Sequence[tuple[nn.Module, ...]],
    ) -> list[dict[str, list[Any]]]:
        """Return the measures of each group of models, joined over all chunks."""

        def job(key: Mapping[str, Any], models: tuple[nn.Module, ...]) -> ChunkJob:
            def about(chunk: Chunk) -> dict[str, Any]:
                return {**key, **self.common_key, "batch": chunk.fingerprint, "place": chunk.start // CHUNK_SIZE}

            def work(chunk: Chunk) -> dict[str, Any]:
                images, labels = (tensor.to(device_of(models[0])) for tensor in (chunk.images, chunk.labels))
                with seeded(self.seed, stream, chunk.start // CHUNK_SIZE):
                    return dict(measure(*models, images, labels, self.threat, self.search))

            return about, work

        jobs = [job(*each) for each in zip(keys, groups, strict=True)]
        found = run_chunks(task, self.chunks, jobs, self.result_cache, self.on_progress)
        return [{name: [value for part in parts for value in part[name]] for name in parts[0]} for parts in found]

    def _fingerprint(self, model: nn.Module) -> str:
        return describe_model(model, images=self.images)["fingerprint"]


def is_differentiable(model: nn.Module, images: Tensor) -> bool:
    """Return whether autograd connects the logits of a model with its input."""
    with torch.enable_grad(), evaluating(model):
        inputs = images.to(device_of(model)).detach().clone().requires_grad_()
        logits = logits_at(model, inputs)
        if not logits.requires_grad:
            return False
        logits.sum().backward(inputs=[inputs])
    return inputs.grad is not None
