"""Measure whether robustness transferred from a teacher to its students, how much, and possible reasons."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from kdiga.analysis.bounds import student_bound, transfer_bound
from kdiga.analysis.explanation import Explanation
from kdiga.analysis.measures import Measurements, ModelMeasures, PairMeasures
from kdiga.analysis.model_explanation import GradientAgreement, ModelExplanation
from kdiga.analysis.worst_case import WorstCaseSearch
from kdiga.errors import InputError
from kdiga.evaluation import attack_by_name
from kdiga.runs.work_units import OnProgress, ResultCache
from kdiga.types import ThreatModel

_GENERIC = re.compile(r"seed-\d+|(best|last)\.safetensors")  # parts of a path that do not identify a model


def explain(
    teacher: nn.Module,
    students: Mapping[str, nn.Module],
    images: Tensor,
    labels: Tensor,
    *,
    threat: ThreatModel,
    teacher_name: str = "teacher",
    attack: str = "autoattack",
    search: WorstCaseSearch | None = None,
    seed: int = 0,
    result_cache: ResultCache | None = None,
    attack_folders: Sequence[Path | None] | None = None,
    on_progress: OnProgress | None = None,
) -> Explanation:
    """Measure robustness, local linearity, agreement of input gradients and the two bounds of each student.

    Models run in eval mode on their own devices; their modes and parameters do not change.

    Args:
        teacher: Maps images to logits (batch, num_classes).
        students: At least one student, by a short name.
        images: Float (batch, channel, height, width), pixels in [0, 1].
        labels: Int64 (batch,).
        threat: The ball; eps above 0.
        teacher_name: Short name of the teacher.
        attack: Attack of the robust accuracy: "autoattack", "pgd-STEPS" or "fgsm".
        search: Search for the worst images of the ball; None is its defaults.
        seed: Seed of random starts and resamples.
        result_cache: Cache of finished work units; None caches in memory, for this call only. Models with the same
            printed form and ``state_dict`` share results.
        attack_folders: Folders of cached attack results, one per model, teacher first; see :func:`kdiga.evaluate`. None
            is the folder of the result cache.
        on_progress: Called with the task, the finished and the total number of examples.

    Raises:
        InputError: If there is no student or example, eps is 0, the attack is unknown, images or labels are out of
            range, logits are not finite, or the models have different classes.
    """
    if not students:
        raise InputError("no student was given; give at least one student and its teacher.")
    measurements = Measurements(
        images, labels, threat=threat, search=search, seed=seed, result_cache=result_cache, on_progress=on_progress
    )
    if (chosen := attack_by_name(attack)) is None:
        raise InputError(f"attack was {attack!r}; robustness needs one: autoattack, pgd-40 or fgsm.")
    models = [teacher, *students.values()]
    num_classes = measurements.num_classes(models)
    measures = measurements.of_models(models)
    pairs = measurements.of_pairs(teacher, models[1:])
    folders = attack_folders or [measurements.result_cache.folder] * len(models)
    attacked = [
        measurements.attacked(model, chosen.name, folder) for model, folder in zip(models, folders, strict=True)
    ]
    found = [
        ModelExplanation(name, clean, result.correct, result.notes, own["linearity"], own["gradient_norm"])
        for name, own, (clean, result) in zip([teacher_name, *students], measures, attacked, strict=True)
    ]
    reference = replace(
        found[0], linearity=_largest_remainder(measures[0], [pair["teacher_at_transfer"] for pair in pairs])
    )
    rest = [_student(*each, reference, threat.eps) for each in zip(found[1:], measures[1:], pairs, strict=True)]
    return Explanation(threat, chosen.name, seed, num_classes, reference, rest)


def _student(
    found: ModelExplanation, own: ModelMeasures, pair: PairMeasures, teacher: ModelExplanation, eps: float
) -> ModelExplanation:
    gamma = _largest_remainder(own, [pair["student_at_transfer"]])
    return replace(
        found,
        linearity=gamma,
        agreement=GradientAgreement(pair["cosine"], pair["distance"]),
        student_bound=student_bound(
            eps,
            linearity=gamma,
            teacher_gradient=teacher.gradient_norm,
            distance=pair["distance"],
            measured=own["change"],
        ),
        transfer_bound=transfer_bound(
            eps,
            clean_gap=pair["clean_gap"],
            distance=pair["distance"],
            student_linearity=gamma,
            teacher_linearity=teacher.linearity,
            measured=pair["transfer"],
        ),
    )


def _largest_remainder(own: ModelMeasures, others: Sequence[Sequence[float]]) -> list[float]:
    """Return the largest remainder that any search found: each is a lower bound of the true maximum."""
    return [max(values) for values in zip(own["linearity"], *others, strict=True)]


def short_model_names(models: Sequence[str]) -> list[str]:
    """Return the shortest unique ending of the path of each model; repeated models get a number.

    A name does not begin with a part that is only a seed or a weights file.

    >>> short_model_names(["runs/teachers/robust", "runs/kd/seed-0", "runs/tangent/seed-0", "runs/kd/seed-0"])
    ['robust', 'kd/seed-0', 'tangent/seed-0', 'kd/seed-0 (2)']
    """
    parts = [Path(model).parts or (model,) for model in models]
    names = list[str]()
    for place, own in enumerate(parts):
        others = [other for other in parts if other != own]
        length = next((count for count in range(1, len(own)) if _identifies(own[-count:], others)), len(own))
        name, before = "/".join(own[-length:]), sum(other == own for other in parts[:place])
        names.append(f"{name} ({before + 1})" if before else name)
    return names


def _identifies(ending: tuple[str, ...], others: Sequence[tuple[str, ...]]) -> bool:
    return not _GENERIC.fullmatch(ending[0]) and all(other[-len(ending) :] != ending for other in others)
