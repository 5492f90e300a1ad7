"""Did robustness transfer from a teacher to its students, how much, and why: everything measured on the same images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from kdiga.analysis.bounds import student_bound, transfer_bound
from kdiga.analysis.explanation import Explained, Explanation, GradientAgreement
from kdiga.analysis.measures import OfModel, OfPair
from kdiga.analysis.scores import checked_logits
from kdiga.analysis.work import PART, Work
from kdiga.analysis.worst_case import WorstCaseSearch
from kdiga.checks import check_labels, check_same_classes
from kdiga.errors import InputError
from kdiga.evaluation import attack_by_name
from kdiga.model_state import device_of, evaluating
from kdiga.runs.work_units import OnProgress, ResultCache
from kdiga.types import ThreatModel


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

    Models run in eval mode on the device they are on and are left as found.

    Args:
        teacher: maps images to logits (batch, num_classes).
        students: by a short name, at least one.
        images: float (batch, channel, height, width), pixels in [0, 1].
        labels: int64 (batch,).
        threat: the ball; eps above 0.
        teacher_name: a short name.
        attack: that robust accuracy is measured by: "autoattack", "pgd-STEPS" or "fgsm".
        search: for the worst images of the ball; None is its defaults.
        seed: of random starts and resamples.
        result_cache: where finished portions are kept; None keeps them for this call alone. A module whose answers
            depend on more than what it prints and its ``state_dict`` must not share a shelf with another.
        attack_folders: where what the attack has come to is kept, one a model, teacher first; see
            :func:`kdiga.evaluate`. None keeps it with the rest.
        on_progress: told the task, examples done and examples in all.

    Raises:
        InputError: for no student or example, an eps of 0, images or labels out of range, logits that are not
            finite, or a student with other classes than its teacher.
    """
    if not students:
        raise InputError("no student was given; give at least one beside the teacher.")
    check_ball(threat)
    if (chosen := attack_by_name(attack)) is None:
        raise InputError(f"attack was {attack!r}; robustness needs one: autoattack, pgd-40 or fgsm.")
    models = [teacher, *students.values()]
    classes = check_same_shape(models, images, labels)
    work = Work(
        images,
        labels.long(),
        threat=threat,
        search=search or WorstCaseSearch(),
        seed=seed,
        result_cache=result_cache or ResultCache(),
        on_progress=on_progress,
    )
    owns = work.of_models(models)
    pairs = work.of_pairs(teacher, models[1:])
    folders = attack_folders or [work.result_cache.folder] * len(models)
    fought = [work.attacked(model, chosen.name, folder) for model, folder in zip(models, folders, strict=True)]
    explained = [
        Explained(name, clean, left.correct, left.notes, own["linearity"], own["gradient_norm"])
        for name, own, (clean, left) in zip([teacher_name, *students], owns, fought, strict=True)
    ]
    first = replace(explained[0], linearity=_larger(owns[0], [pair["teacher_at_transfer"] for pair in pairs]))
    rest = [_student(*one, first, threat.eps) for one in zip(explained[1:], owns[1:], pairs, strict=True)]
    return Explanation(threat, chosen.name, seed, classes, first, rest)


def check_ball(threat: ThreatModel) -> None:
    """Check that a ball has an extent.

    Raises:
        InputError: if its eps is 0.
    """
    if threat.eps == 0:
        raise InputError("eps was 0; in a ball without extent there is nothing to search. Give an eps above 0.")


def check_same_shape(models: Sequence[nn.Module], images: Tensor, labels: Tensor) -> int:
    """Check models against images and labels, and return their number of classes.

    Raises:
        InputError: for no example, images or labels out of range, something other than finite logits, or models
            that tell other classes apart than the first.
    """
    check_labels(labels, images)
    checked = list[Tensor]()
    for model in models:
        device = device_of(model)
        with evaluating(model):
            for part, answers in zip(images.split(PART), labels.split(PART), strict=True):
                checked.append(checked_logits(model, part.to(device), answers.to(device))[:1])
                check_same_classes(checked[-1], checked[0])
    return checked[0].shape[1]


def _student(plainly: Explained, own: OfModel, pair: OfPair, teacher: Explained, eps: float) -> Explained:
    gamma = _larger(own, [pair["student_at_transfer"]])
    return replace(
        plainly,
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


def _larger(own: OfModel, met: Sequence[Sequence[float]]) -> list[float]:
    """Return the largest remainder that any search met: each is a lower bound of the one true maximum."""
    return [max(values) for values in zip(own["linearity"], *met, strict=True)]
