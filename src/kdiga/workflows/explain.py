"""An explanation as asked for on a command line: which models, on what, and where its files are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kdiga.analysis.explain import explain, short_model_names
from kdiga.analysis.explanation import Explanation
from kdiga.analysis.pictures import choose_examples, picture_arrays
from kdiga.analysis.worst_case import WorstCaseSearch
from kdiga.data.image_set import to_pixels
from kdiga.io.atomic_write import replacing
from kdiga.results.explanations import ExplanationResult
from kdiga.runs.provenance import provenance
from kdiga.runs.work_units import FOLDER, OnProgress, ResultCache
from kdiga.workflows.loaded_model import (
    LoadedModel,
    TestSet,
    check_earlier_result,
    default_folder,
    load_judged_model,
    load_test_set,
    make_folder,
)

FILE, PICTURES = "explanation.json", "explanation.npz"


@dataclass(frozen=True)
class ExplainRequest:
    """What to explain.

    Args:
        teacher: a run's folder, a .safetensors file, or an architecture with ``weights``.
        students: runs' folders or .safetensors files, at least one.
        out: folder for the explanation, its pictures and what is kept.
        data: name of the data set; None is the first run's.
        root: folder that holds the data.
        eps: number or fraction; None is the run's.
        norm: "linf" or "l2"; None is the run's.
        examples: only the first so many test images; None for all.
        attack: what robust accuracy is measured by.
        which: "best" or "last" weights of runs.
        weights: state dict of a teacher named by its architecture.
        normalization: of those weights.
        search: for the ball's worst images.
        seed: of random starts and resamples.
        device: "auto", "cpu" or "cuda".
        overwrite: whether another explanation in the folder may be replaced.
        pictures: examples whose gradients and worst images are kept.
    """

    teacher: str
    students: Sequence[str]
    out: Path
    data: str | None = None
    root: Path | None = None
    eps: str | None = None
    norm: str | None = None
    examples: int | None = 200
    attack: str = "autoattack"
    which: str = "best"
    weights: Path | None = None
    normalization: str | None = None
    search: WorstCaseSearch = field(default_factory=WorstCaseSearch)
    seed: int = 0
    device: str = "auto"
    overwrite: bool = False
    pictures: int = 6

    def load(self) -> tuple[list[LoadedModel], TestSet]:
        """Return the models, teacher first, and what they are judged on."""
        given = [self.teacher, *self.students]
        test_set = load_test_set(
            given, data=self.data, root=self.root, eps=self.eps, norm=self.norm, examples=self.examples
        )
        common: dict[str, Any] = {"which": self.which, "device": self.device}
        teacher = load_judged_model(
            self.teacher, test_set, weights=self.weights, normalization=self.normalization, role="teacher", **common
        )
        return [
            teacher,
            *(load_judged_model(student, test_set, role="student", **common) for student in self.students),
        ], test_set


def explain_runs(question: ExplainRequest, *, command: str, progress: OnProgress | None = None) -> dict[str, Any]:
    """Explain, and write ``explanation.json`` and its pictures.

    What ``kdiga evaluate`` has found of a run with the same attack on the same images is taken from there.

    Args:
        question: what.
        command: how the user asked.
        progress: called with a task, examples done and examples to do.

    Returns:
        What ``explanation.json`` holds.

    Raises:
        InputError: for anything in the question that cannot be had.
    """
    loaded_models, test_set = question.load()
    models = [loaded.model for loaded in loaded_models]
    given = [question.teacher, *question.students]
    names = short_model_names(given)
    images, labels = to_pixels(test_set.images.images), test_set.images.labels
    asked = {
        "kind": "explanation",
        **test_set.about(),
        "seed": question.seed,
        "search": question.search.to_dict(),
        "attack": question.attack.strip().lower(),
        "compared": [loaded.about["fingerprint"] for loaded in loaded_models],
    }
    check_earlier_result(question.out / FILE, asked, overwrite=question.overwrite)
    make_folder(question.out)
    found = explain(
        models[0],
        dict(zip(names[1:], models[1:], strict=True)),
        images,
        labels,
        threat=test_set.threat,
        teacher_name=names[0],
        attack=question.attack,
        seed=question.seed,
        search=question.search,
        result_cache=ResultCache(question.out / FOLDER),
        on_progress=progress,
        attack_folders=[_attacked(model, test_set, question) for model in given],
    )
    content = found.to_dict()
    about = [loaded.about | model for loaded, model in zip(loaded_models, content["models"], strict=True)]
    content = asked | {"command": command} | content | {"models": about}
    content["provenance"] = provenance(next(models[0].parameters()).device)
    if question.pictures:
        content["pictures"] = PICTURES
        _keep_pictures(question, found, loaded_models, test_set)
    ExplanationResult.model_validate(content).write(question.out / FILE, indent=2)
    return content


def _attacked(model: str, test_set: TestSet, question: ExplainRequest) -> Path:
    """Return where what an attack has come to is kept: with a run's own evaluations, so that neither does it twice."""
    own = default_folder(model, "evaluation", test_set, question.which)
    return (own or question.out) / FOLDER


def _keep_pictures(
    question: ExplainRequest, found: Explanation, loaded_models: Sequence[LoadedModel], test_set: TestSet
) -> None:
    images, labels = to_pixels(test_set.images.images), test_set.images.labels
    rows = choose_examples(found.teacher.clean, labels, question.pictures)
    arrays: dict[str, Any] = picture_arrays(
        [loaded.model for loaded in loaded_models],
        images[rows],
        labels[rows],
        test_set.images.classes,
        threat=found.threat,
        search=question.search,
        seed=found.seed,
    )
    with replacing(question.out / PICTURES, shared=True) as partial, partial.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
