"""The commands that judge models, as functions of modules: the same work, the same results, the same page."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from kdiga.arguments import checked
from kdiga.data.image_set import to_pixels
from kdiga.errors import InputError, unknown
from kdiga.evaluation import Evaluation
from kdiga.evaluation.evaluate import GivenData, given_images
from kdiga.progress_bar import OnTask, progress_of
from kdiga.report.page import Page, check_place, write_page
from kdiga.results.certificates import CertificateResult
from kdiga.results.evaluations import SuitabilityResult
from kdiga.results.explanations import ExplanationResult
from kdiga.results.shared import FileModel
from kdiga.runs.fingerprints import describe_model
from kdiga.runs.provenance import call_of
from kdiga.types import ThreatModel
from kdiga.workflows.certify import certify_models
from kdiga.workflows.compare import evaluation_result
from kdiga.workflows.explain import explain_models
from kdiga.workflows.loaded_model import LoadedModel, TestSet
from kdiga.workflows.options import comma_separated
from kdiga.workflows.requests import CertifyRequest, ExplainRequest, ModelRequest, SuitableRequest
from kdiga.workflows.result_folder import Outcome, file_name
from kdiga.workflows.suitable import judge_teacher

File = TypeVar("File", bound=FileModel)
Result = Evaluation | CertificateResult | ExplanationResult | SuitabilityResult


@checked
def certify(
    model: nn.Module,
    data: GivenData,
    *,
    threat: ThreatModel | str | None = None,
    teacher: nn.Module | None = None,
    methods: Sequence[str] = ("clever", "smoothing"),
    examples: int | None = 100,
    seed: int = 0,
    out: str | Path | None = None,
    name: str | None = None,
    progress: OnTask | bool | None = None,
    **settings: Any,
) -> CertificateResult:
    """Find the radius within which each answer of a model cannot change, as ``kdiga certify`` does.

    Args:
        model: Network from images in [0, 1] to logits. It is left unchanged, like every model here.
        data: Test images: a :class:`kdiga.DataSet`, an :class:`kdiga.ImageSet`, or batches of images and labels.
        threat: Norm, and largest radius of "clever" and "interval": a :class:`kdiga.ThreatModel`, or text such as
            "linf 8/255", which is the default.
        teacher: Model with which the radii are compared, example by example.
        methods: "clever" (an estimate), "smoothing" (holds with a confidence, in L2), "interval" (a proof).
        examples: Number of test images, the first ones; None for all.
        seed: Seed of all random numbers.
        out: Folder of ``certificate.json`` and finished work, which the same call continues; None writes nothing.
        name: Name of the model on a page; None is its architecture or the name of its class.
        progress: As in :func:`kdiga.evaluate`.
        settings: Options of ``kdiga certify``: max_radius, clever_batches, clever_batch_size, sigma, samples,
            selection_samples, alpha, overwrite.

    Raises:
        InputError: If an argument is not accepted, or a method does not cover the model.
    """
    names = comma_separated(methods) if isinstance(methods, str) else tuple(methods)
    request = _request(CertifyRequest, settings, model="", method=names, seed=seed, examples=examples)
    test_set = _test_set(data, threat, examples)
    models = [_described(model, name, test_set)]
    models += [] if teacher is None else [_described(teacher, "teacher", test_set)]
    compared = {} if teacher is None else {"teacher": "teacher"}
    options = {"methods": list(request.method), "seed": seed, **compared, **settings}
    command = _call("certify", models[:1], test_set, **options)
    with progress_of(progress, "certify") as on_progress:
        outcome = certify_models(request, models, test_set, _folder(out), command=command, progress=on_progress)
    return _result(CertificateResult, outcome)


@checked
def explain(
    teacher: nn.Module,
    students: nn.Module | Mapping[str, nn.Module],
    data: GivenData,
    *,
    threat: ThreatModel | str | None = None,
    attack: str = "autoattack",
    examples: int | None = 200,
    seed: int = 0,
    out: str | Path | None = None,
    progress: OnTask | bool | None = None,
    **settings: Any,
) -> ExplanationResult:
    """Measure how much robustness went from a teacher to its students, and why, as ``kdiga explain`` does.

    Args:
        teacher: Network from images in [0, 1] to logits.
        students: Students by name, or one student.
        data: Test images, as in :func:`kdiga.certify`.
        threat: Threat model, as in :func:`kdiga.certify`.
        attack: Attack of the robust accuracy: "autoattack", "pgd-STEPS" or "fgsm".
        examples: Number of test images, the first ones; None for all.
        seed: Seed of all random numbers.
        out: Folder of ``explanation.json``, its pictures and finished work; None writes nothing and makes no pictures.
        progress: As in :func:`kdiga.evaluate`.
        settings: Options of ``kdiga explain``: restarts, pictures, overwrite.

    Raises:
        InputError: If an argument is not accepted, or the models have different classes.
    """
    request = _request(ExplainRequest, settings, teacher="", students=(), attack=attack, seed=seed, examples=examples)
    test_set = _test_set(data, threat, examples)
    named = {"student": students} if isinstance(students, nn.Module) else students
    models = [_described(one, name, test_set) for name, one in {"teacher": teacher, **named}.items()]
    command = _call("explain", models, test_set, attack=attack, seed=seed, **settings)
    with progress_of(progress, "explain") as on_progress:
        outcome = explain_models(request, models, test_set, _folder(out), command=command, progress=on_progress)
    return _result(ExplanationResult, outcome)


@checked
def suitable(
    teacher: nn.Module,
    data: GivenData,
    *,
    threat: ThreatModel | str | None = None,
    examples: int | None = 500,
    seed: int = 0,
    out: str | Path | None = None,
    name: str | None = None,
    progress: OnTask | bool | None = None,
    **settings: Any,
) -> SuitabilityResult:
    """Check before any training whether a teacher is worth distilling, as ``kdiga suitable`` does.

    Args:
        teacher: Network from images in [0, 1] to logits.
        data: Test images, as in :func:`kdiga.certify`.
        threat: Threat model, as in :func:`kdiga.certify`.
        examples: Number of test images, the first ones; None for all.
        seed: Seed of all random numbers.
        out: Folder of ``suitability.json`` and finished work; None writes nothing.
        name: Name of the teacher on a page; None is its architecture or the name of its class.
        progress: As in :func:`kdiga.evaluate`.
        settings: Options of ``kdiga suitable``: restarts, overwrite.

    Raises:
        InputError: If an argument is not accepted.
    """
    request = _request(SuitableRequest, settings, teacher="", seed=seed, examples=examples)
    test_set = _test_set(data, threat, examples)
    models = [_described(teacher, name, test_set)]
    command = _call("suitable", models, test_set, seed=seed, **settings)
    with progress_of(progress, "suitable") as on_progress:
        outcome = judge_teacher(request, models[0], test_set, _folder(out), command=command, progress=on_progress)
    return _result(SuitabilityResult, outcome)


def write_report(*results: Result | str | Path, out: str | Path = "report.html", title: str | None = None) -> Page:
    """Put results into one self-contained HTML page, as ``kdiga report`` does.

    Results that lie in no file yet are written next to the page, in a folder of its name, where ``kdiga report`` and
    ``kdiga compare`` read them again.

    Args:
        results: What :func:`kdiga.evaluate`, :func:`kdiga.certify`, :func:`kdiga.explain` and
            :func:`kdiga.suitable` returned, and folders of runs, studies or results.
        out: Path of the page.
        title: Title of the page; None is the question that it answers.

    Returns:
        Path of the page and what it says first.

    Raises:
        InputError: If a folder holds nothing readable, or ``out`` is another file.
    """
    page = Path(out)
    check_place(page)
    folders, used = list[Path](), set[Path]()
    for one in results:
        if isinstance(one, str | Path):
            folders.append(Path(one))
            continue
        content = evaluation_result(one) if isinstance(one, Evaluation) else one
        if content.path != Path():
            folders.append(content.path.parent)
            continue
        folder = _free(page.with_suffix(""), content, used)
        folder.mkdir(parents=True, exist_ok=True)
        content.write(folder / file_name(type(content)))
        folders.append(folder)
    return write_page(folders, page, title)


def _free(above: Path, content: FileModel, used: set[Path]) -> Path:
    """Return a folder for a result, named after its model, that no other result of this page uses."""
    name = re.sub(r"[^\w.-]+", "-", str(getattr(content, "model", "") or content.KIND)).strip("-.") or "model"
    places = (above / (f"{name}-{number}" if number else name) for number in range(len(used) + 1))
    place = next(one for one in places if one / content.KIND not in used)
    used.add(place / content.KIND)
    return place


Request = TypeVar("Request", bound=ModelRequest)


def _request(kind: type[Request], settings: Mapping[str, Any], **given: Any) -> Request:
    known = {one.name for one in fields(kind)} - {one.name for one in fields(ModelRequest)}
    known -= {*given, "eps", "norm", "out", "against", "radius"}
    if strange := next((name for name in settings if name not in known), None):
        raise unknown("setting", strange, sorted(known))
    return kind(**given, **settings)


def _test_set(data: GivenData, threat: ThreatModel | str | None, examples: int | None) -> TestSet:
    images, name = given_images(data, examples)
    return TestSet(images, images, ThreatModel.of(threat), name)


def _described(model: nn.Module, name: str | None, test_set: TestSet) -> LoadedModel:
    if not isinstance(model, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(f"the model was {type(model).__name__}; give a torch.nn.Module, or load one by load_model.")
    about = describe_model(model, name, images=to_pixels(test_set.images.images[:8]))
    return LoadedModel(model, about | {"name": about["model"]})


def _call(function: str, models: Sequence[LoadedModel], test_set: TestSet, **options: Any) -> str:
    """Return the call that a result file states as its command."""
    threat = f"{test_set.threat.norm} {test_set.threat.eps:g}"
    names = [str(one.about["model"]) for one in models]
    return call_of(function, *names, test_set.data, threat=threat, examples=len(test_set.images), **options)


def _folder(out: str | Path | None) -> Path | None:
    return None if out is None else Path(out)


def _result(kind: type[File], outcome: Outcome) -> File:
    if outcome.folder is not None:
        return kind.read(outcome.folder / file_name(kind))
    return kind.model_validate(outcome.content)
