"""Measure whether robustness transferred from a teacher to its students, how much, and possible reasons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from kdiga.analysis.bounds import student_bound, transfer_bound
from kdiga.analysis.explanation import Explanation
from kdiga.analysis.measures import Measurements, ModelMeasures, PairMeasures
from kdiga.analysis.model_explanation import ModelExplanation, StudentExplanation
from kdiga.errors import InputError
from kdiga.evaluation import attack_by_name


def explain(
    measurements: Measurements,
    teacher: nn.Module,
    students: Mapping[str, nn.Module],
    *,
    teacher_name: str = "teacher",
    attack: str = "autoattack",
    attack_folders: Sequence[Path | None] | None = None,
) -> Explanation:
    """Measure robustness, local linearity, agreement of input gradients and the two bounds of each student.

    Models run in eval mode on their own devices; their modes and parameters do not change.

    Args:
        measurements: Images, threat model and search.
        teacher: Maps images to logits (batch, num_classes).
        students: At least one student, by a short name.
        teacher_name: Short name of the teacher.
        attack: Attack of the robust accuracy: "autoattack", "pgd-STEPS" or "fgsm".
        attack_folders: Folders of cached attack results, one per model, teacher first; see :func:`kdiga.evaluate`. None
            is the folder of the result cache.

    Raises:
        InputError: If there is no student, the attack is unknown, labels are out of range, logits are not finite, or
            the models have different classes.
    """
    if not students:
        raise InputError("no student was given; give at least one student and its teacher.")
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
    rest = [
        _student(*each, reference, measurements.threat.eps) for each in zip(found[1:], measures[1:], pairs, strict=True)
    ]
    return Explanation(measurements.threat, chosen.name, measurements.seed, num_classes, reference, rest)


def _student(
    found: ModelExplanation, own: ModelMeasures, pair: PairMeasures, teacher: ModelExplanation, eps: float
) -> StudentExplanation:
    gamma = _largest_remainder(own, [pair["student_at_transfer"]])
    shared: dict[str, Any] = vars(found) | {"linearity": gamma}
    return StudentExplanation(
        **shared,
        cosine=pair["cosine"],
        distance=pair["distance"],
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
