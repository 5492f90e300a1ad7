"""Did robustness transfer from a teacher to its students, how much, and why: everything measured on the same images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

import kdiga
from kdiga.analysis.bounds import student_bound, transfer_bound
from kdiga.analysis.explanation import Agreement, Explained, Explanation
from kdiga.analysis.measures import OfModel, OfPair, measure_model, measure_pair
from kdiga.analysis.scores import Connected, checked_logits
from kdiga.analysis.search import Search
from kdiga.checks import check_same_classes
from kdiga.errors import InputError
from kdiga.evaluation import attack_by_name, evaluate
from kdiga.fingerprints import fingerprint_of_model, fingerprint_of_tensors
from kdiga.modes import evaluating, seeded
from kdiga.portions import OnProgress, Portion, Shelf, work_through
from kdiga.types import ThreatModel

PART = 100  # examples measured together, and kept together
MODEL_STREAM, PAIR_STREAM = 11, 12  # which of the seed's random streams restarts are drawn from


def explain(
    teacher: nn.Module,
    students: Mapping[str, nn.Module],
    images: Tensor,
    labels: Tensor,
    *,
    threat: ThreatModel,
    teacher_name: str = "teacher",
    attack: str = "autoattack",
    search: Search | None = None,
    seed: int = 0,
    shelf: Shelf | None = None,
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
        shelf: where finished portions are kept; None keeps them for this call alone. A module whose answers
            depend on more than what it prints and its ``state_dict`` must not share a shelf with another.
        on_progress: told the task, examples done and examples in all.

    Raises:
        InputError: for no student or example, an eps of 0, images or labels out of range, logits that are not
            finite, or a student with other classes than its teacher.
    """
    if not students:
        raise InputError("no student was given; give at least one beside the teacher.")
    if threat.eps == 0:
        raise InputError("eps was 0; a ball without extent explains nothing. Give an eps above 0.")
    if attack_by_name(attack) is None:
        raise InputError(f"attack was {attack!r}; robustness needs one: autoattack, pgd-40 or fgsm.")
    classes = _check([teacher, *students.values()], images, labels)
    work = _Work(images, labels, threat, attack, search or Search(), seed)
    models = [teacher, *students.values()]
    portions = [portion for model in models for portion in work.of_model(model)]
    portions += [portion for student in students.values() for portion in work.of_pair(teacher, student)]
    portions += [work.robustness(model) for model in models]
    outcomes = iter(work_through(portions, shelf or Shelf(), on_progress))
    parts = len(list(images.split(PART)))
    of_models = [cast("OfModel", _joined([next(outcomes) for _ in range(parts)])) for _ in models]
    of_pairs = [cast("OfPair", _joined([next(outcomes) for _ in range(parts)])) for _ in students]
    robust = list(outcomes)
    explained_teacher = _explained(teacher_name, of_models[0], robust[0], _gamma(of_models[0], of_pairs, "teacher"))
    explained = [
        _student(name, threat.eps, own, pair, fought, explained_teacher)
        for name, own, pair, fought in zip(students, of_models[1:], of_pairs, robust[1:], strict=True)
    ]
    return Explanation(threat, attack.strip().lower(), seed, classes, explained_teacher, explained)


class _Work:
    """The portions of one explanation: everything that decides an outcome is in its key."""

    def __init__(
        self, images: Tensor, labels: Tensor, threat: ThreatModel, attack: str, search: Search, seed: int
    ) -> None:
        self.images, self.labels, self.threat, self.seed = images, labels.long(), threat, seed
        self.attack, self.search = attack.strip().lower(), search
        self.common = {"threat": vars(threat), "seed": seed, "version": kdiga.__version__}
        self.prints = dict[int, str]()

    def of_model(self, model: nn.Module) -> list[Portion]:
        about = {"work": "linearity", "model": self._print(model)}
        return self._in_parts(about, "local linearity", MODEL_STREAM, lambda *batch: measure_model(
            model, *batch, self.threat, self.search
        ), model)  # fmt: skip

    def of_pair(self, teacher: nn.Module, student: nn.Module) -> list[Portion]:
        about = {"work": "bounds", "teacher": self._print(teacher), "student": self._print(student)}
        return self._in_parts(about, "bounds", PAIR_STREAM, lambda *batch: measure_pair(
            teacher, student, *batch, self.threat, self.search
        ), student)  # fmt: skip

    def robustness(self, model: nn.Module) -> Portion:
        # The one place where robust accuracy is measured.
        def work() -> dict[str, Any]:
            report = evaluate(
                model if _differentiable(model, self.images[:1]) else Connected(model), [(self.images, self.labels)],
                eps=self.threat.eps, norm=self.threat.norm, attacks=["clean", self.attack], seed=self.seed,
            )  # fmt: skip
            correct = report.to_dict()["correct"]
            notes = list(report.results[self.attack].notes)
            return {"clean": correct["clean"], "robust": correct[self.attack], "notes": notes}

        about = {"work": "robustness", "model": self._print(model), "attack": self.attack}
        return Portion(
            self.attack, about | self._batch_key(self.images, self.labels) | self.common, len(self.images), work
        )

    def _in_parts(
        self, about: dict[str, Any], task: str, stream: int, measure: Callable[..., Any], model: nn.Module
    ) -> list[Portion]:
        portions = list[Portion]()
        for place, (images, labels) in enumerate(zip(self.images.split(PART), self.labels.split(PART), strict=True)):

            def work(images: Tensor = images, labels: Tensor = labels, place: int = place) -> Any:
                device = _device_of(model)
                with seeded(self.seed, stream, place):
                    return dict(measure(images.to(device), labels.to(device)))

            key = about | self._batch_key(images, labels) | self.common
            portions.append(Portion(task, key | {"search": self.search.to_dict(), "place": place}, len(images), work))
        return portions

    def _batch_key(self, images: Tensor, labels: Tensor) -> dict[str, str]:
        return {"batch": fingerprint_of_tensors(images, labels)}

    def _print(self, model: nn.Module) -> str:
        if id(model) not in self.prints:
            self.prints[id(model)] = fingerprint_of_model(model)
        return self.prints[id(model)]


def _check(models: Sequence[nn.Module], images: Tensor, labels: Tensor) -> int:
    first: Tensor | None = None
    for model in models:
        device = _device_of(model)
        with evaluating(model):
            for part, answers in zip(images.split(PART), labels.split(PART), strict=True):
                logits = checked_logits(model, part.to(device), answers.to(device))
                first = logits if first is None else first
                check_same_classes(logits, first)
    if first is None:
        raise InputError("the data held no example; give at least one image and its label.")
    return first.shape[1]


def _joined(parts: Sequence[Mapping[str, list[Any]]]) -> dict[str, list[Any]]:
    return {name: [value for part in parts for value in part[name]] for name in parts[0]}


def _explained(name: str, own: OfModel, fought: Mapping[str, Any], gamma: Sequence[float]) -> Explained:
    clean, robust = ([bool(right) for right in fought[what]] for what in ("clean", "robust"))
    return Explained(name, clean, robust, fought["notes"], gamma, own["gradient_norm"])


def _student(
    name: str, eps: float, own: OfModel, pair: OfPair, fought: Mapping[str, Any], teacher: Explained
) -> Explained:
    gamma = _gamma(own, [pair], "student")
    plainly = _explained(name, own, fought, gamma)
    return Explained(
        **vars(plainly)
        | {
            "agreement": Agreement(pair["cosine"], pair["distance"]),
            "student_bound": student_bound(
                eps, linearity=gamma, teacher_gradient=teacher.gradient_norm, distance=pair["distance"],
                measured=pair["change"],
            ),
            "transfer_bound": transfer_bound(
                eps, clean_gap=pair["clean_gap"], distance=pair["distance"], student_linearity=gamma,
                teacher_linearity=teacher.linearity, measured=pair["transfer"],
            ),
        }
    )  # fmt: skip


def _gamma(own: OfModel, pairs: Sequence[OfPair], role: str) -> list[float]:
    """Return the largest remainder that any of the searches met: each is a lower bound of the one true maximum."""
    met = [own["linearity"]]
    for pair in pairs:
        met += [pair["teacher_at_transfer"]] if role == "teacher" else [
            pair["student_at_change"], pair["student_at_transfer"]
        ]  # fmt: skip
    return [max(values) for values in zip(*met, strict=True)]


def _differentiable(model: nn.Module, images: Tensor) -> bool:
    with torch.enable_grad(), evaluating(model):
        inputs = images.to(_device_of(model)).detach().clone().requires_grad_()
        logits = model(inputs)
        if not logits.requires_grad:
            return False
        (gradient,) = torch.autograd.grad(logits.sum(), inputs, allow_unused=True)
    return gradient is not None


def _device_of(model: nn.Module) -> torch.device:
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
