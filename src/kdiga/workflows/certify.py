"""``kdiga certify``: certificates of a model, by method; finished work units are stored in a folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdiga.certification import (
    CertificateComparison,
    Clever,
    IntervalBounds,
    Smoothed,
    clever,
    clever_against,
    interval_against,
    interval_bounds,
    smooth,
    smooth_against,
)
from kdiga.certification.interval_network import trace_network
from kdiga.certification.lipschitz import Sampling
from kdiga.certification.smoothing import Noise
from kdiga.data.image_set import to_pixels
from kdiga.errors import check_known
from kdiga.results.certificates import CertificateResult
from kdiga.runs.provenance import provenance
from kdiga.runs.work_units import OnProgress
from kdiga.types import ThreatModel, parse_number, refuse_l1
from kdiga.workflows.loaded_model import LoadedModel, TestSet, load_judged_model, load_with_test_set, result_folder
from kdiga.workflows.requests import CertifyRequest, ModelRequest
from kdiga.workflows.result_folder import Outcome, ResultFolder

METHODS = ("clever", "smoothing", "interval")
IDENTITY = ("fingerprint", "data_fingerprint", "examples", "threat", "seed")  # of what a result file may be added to

Certificate = Clever | Smoothed | IntervalBounds


def run_certification(request: CertifyRequest, *, command: str = "", progress: OnProgress | None = None) -> Outcome:
    """Certify a model, and write ``certificate.json``, with the command, where there is a folder."""
    _methods(request)
    others = [] if request.against is None else [request.against]
    loaded, test_set = load_with_test_set(request, request.model, *others)
    plain = ModelRequest(device=request.device)
    models = [loaded, *(load_judged_model(one, test_set, plain, "teacher") for one in others)]
    folder = result_folder(request, request.model, "certification", test_set)
    return certify_models(request, models, test_set, folder, command=command, progress=progress)


def certify_models(
    request: CertifyRequest,
    models: Sequence[LoadedModel],
    test_set: TestSet,
    folder: Path | None,
    *,
    command: str,
    progress: OnProgress | None,
) -> Outcome:
    """Certify the first of the models, against the second if there is one."""
    methods = _methods(request)
    refuse_l1(test_set.threat, "a certificate")
    if "interval" in methods:
        _check_coverage(models, test_set)
    loaded = models[0]
    about = loaded.about | test_set.about() | {"seed": request.seed}
    identity = {name: about[name] for name in IDENTITY}
    results = ResultFolder(folder, CertificateResult, identity, overwrite=request.overwrite)
    content = {"kind": "certificate", "command": command} | about | {"provenance": provenance(loaded.device)}
    against = dict[str, Any]()
    for name in methods:
        certify, compare, settings = _method(name, request, test_set.threat)
        arguments = (*(one.model for one in models), to_pixels(test_set.images.images), test_set.images.labels)
        settings |= {"folder": results.work_units, "progress": progress}
        if len(models) > 1:
            found = compare(*arguments, **settings)
            content[name], against[name] = found.student.to_dict(), found.to_dict()
        else:
            content[name] = certify(*arguments, **settings).to_dict()
    for teacher in models[1:]:
        content["against"] = {"teacher": teacher.about} | against
    return results.write(content, _joined)


def _methods(request: CertifyRequest) -> list[str]:
    """Return the methods, after a check of everything that can be checked before anything is loaded."""
    methods = list(dict.fromkeys(name.lower() for name in request.method))
    for name in methods:
        check_known("method", name, METHODS)
    largest = parse_number(1.0 if request.max_radius is None else request.max_radius)
    if "clever" in methods:
        Sampling(ThreatModel("l2", largest), request.clever_batches, request.clever_batch_size)
    if "smoothing" in methods:
        Noise(request.sigma, request.samples, request.selection_samples, request.alpha)
    return methods


def _check_coverage(models: Sequence[LoadedModel], test_set: TestSet) -> None:
    """Refuse a network that intervals do not cover before minutes go into the other methods."""
    image = to_pixels(test_set.images.images[:1])[0].to(models[0].device)
    for loaded, role in zip(models, ("model", "teacher"), strict=False):
        trace_network(loaded.model, image, role)


def _method(
    name: str, request: CertifyRequest, threat: ThreatModel
) -> tuple[Callable[..., Certificate], Callable[..., CertificateComparison], dict[str, Any]]:
    """Return a method for a model alone, the same against a teacher, and their settings."""
    largest = threat.eps if request.max_radius is None else parse_number(request.max_radius)
    if name == "clever":
        return (
            clever,
            clever_against,
            {
                "norm": threat.norm,
                "max_radius": largest,
                "batches": request.clever_batches,
                "batch_size": request.clever_batch_size,
                "seed": request.seed,
            },
        )
    if name == "smoothing":
        return (
            smooth,
            smooth_against,
            {
                "sigma": request.sigma,
                "samples": request.samples,
                "selection_samples": request.selection_samples,
                "alpha": request.alpha,
                "seed": request.seed,
            },
        )
    return interval_bounds, interval_against, {"norm": threat.norm, "eps": threat.eps, "max_radius": largest}


def _joined(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return new results with those of an earlier call that they do not replace.

    A comparison with a teacher has the student's radii, too, and is replaced with them.
    """
    earlier, against = old.get("against"), new.get("against")
    joined = {name: found for name, found in {**old, **new}.items() if name != "against"}
    if earlier and (against is None or earlier["teacher"]["fingerprint"] == against["teacher"]["fingerprint"]):
        against = {name: found for name, found in earlier.items() if name not in new} | (against or {})
    return joined | {"against": against} if against and set(against) != {"teacher"} else joined
