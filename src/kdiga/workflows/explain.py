"""``kdiga explain``: how much of a teacher's robustness went into its students; the results are stored in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kdiga.analysis.explain import explain
from kdiga.analysis.explanation import Explanation
from kdiga.analysis.pictures import choose_examples, picture_arrays
from kdiga.analysis.worst_case import WorstCaseSearch
from kdiga.data.image_set import to_pixels
from kdiga.io.atomic_write import replacing
from kdiga.results.explanations import ExplanationResult
from kdiga.results.shared import short_names
from kdiga.runs.provenance import provenance
from kdiga.runs.work_units import FOLDER, OnProgress
from kdiga.workflows.loaded_model import (
    LoadedModel,
    TestSet,
    load_judged_model,
    load_with_test_set,
    measurements_on,
    result_folder,
)
from kdiga.workflows.requests import ExplainRequest, JudgeRequest, ModelRequest
from kdiga.workflows.result_folder import Outcome, ResultFolder

PICTURES = "explanation.npz"


def explain_runs(request: ExplainRequest, *, command: str = "", progress: OnProgress | None = None) -> Outcome:
    """Explain students by their teacher, and write ``explanation.json``, with the command, and its pictures.

    Results of ``kdiga evaluate`` for a run, with the same attack on the same images, are taken from its folder.
    """
    given = [request.teacher, *request.students]
    teacher, test_set = load_with_test_set(request, *given, role="teacher")
    plain = ModelRequest(which=request.which, device=request.device)
    loaded = [teacher, *(load_judged_model(student, test_set, plain, "student") for student in request.students)]
    folders = [_attack_folder(model, test_set, request) for model in given]
    named = zip(loaded, short_names(given), strict=True)
    models = [replace(one, about=one.about | {"name": name}) for one, name in named]
    return explain_models(request, models, test_set, request.out, folders, command=command, progress=progress)


def explain_models(
    request: ExplainRequest,
    models: Sequence[LoadedModel],
    test_set: TestSet,
    folder: Path | None,
    attack_folders: Sequence[Path] | None = None,
    *,
    command: str,
    progress: OnProgress | None,
) -> Outcome:
    """Explain students by their teacher, the first of the models; each has a short name in its description."""
    names = [str(one.about["name"]) for one in models]
    search = WorstCaseSearch(restarts=request.restarts)
    identity = {
        "kind": "explanation",
        **test_set.about(),
        "seed": request.seed,
        "search": search.to_dict(),
        "attack": request.attack.strip().lower(),
        "compared": [loaded.about["fingerprint"] for loaded in models],
    }
    results = ResultFolder(folder, ExplanationResult, identity, overwrite=request.overwrite)
    found = explain(
        measurements_on(test_set, search, request.seed, results.cache, progress),
        models[0].model,
        {name: loaded.model for name, loaded in zip(names[1:], models[1:], strict=True)},
        teacher_name=names[0],
        attack=request.attack,
        attack_folders=attack_folders,
    )
    content: dict[str, Any] = identity | {"command": command} | found.to_dict()
    content["models"] = [loaded.about | model for loaded, model in zip(models, content["models"], strict=True)]
    content["provenance"] = provenance(models[0].device)
    if request.pictures and folder is not None:
        content["pictures"] = PICTURES
        _write_pictures(request, found, models, test_set, folder / PICTURES)
    return results.write(content)


def _attack_folder(model: str, test_set: TestSet, request: ExplainRequest) -> Path:
    """Return where attacked batches are stored: with a run's own evaluations, so that no attack runs twice."""
    own = result_folder(JudgeRequest(which=request.which), model, "evaluation", test_set)
    return (own or request.out) / FOLDER


def _write_pictures(
    request: ExplainRequest, found: Explanation, models: Sequence[LoadedModel], test_set: TestSet, path: Path
) -> None:
    images, labels = to_pixels(test_set.images.images), test_set.images.labels
    rows = choose_examples(found.teacher.clean, labels, request.pictures)
    arrays: dict[str, Any] = picture_arrays(
        [loaded.model for loaded in models],
        images[rows],
        labels[rows],
        test_set.images.classes,
        threat=found.threat,
        search=WorstCaseSearch(restarts=request.restarts),
        seed=found.seed,
    )
    with replacing(path, shared=True) as partial, partial.open("wb") as output:
        np.savez_compressed(output, allow_pickle=False, **arrays)
