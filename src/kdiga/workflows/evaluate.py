"""``kdiga evaluate``: attacks on a model, by one process or several; finished work units are stored in a folder."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from kdiga.data.image_set import to_pixels
from kdiga.distributed.launch import one_thread
from kdiga.distributed.worker_processes import LocalExecutor
from kdiga.errors import InputError
from kdiga.evaluation import attack_by_name, sweep
from kdiga.evaluation.accuracies import BY_ATTACK, joined_findings
from kdiga.evaluation.corruptions import corruption_accuracy
from kdiga.evaluation.masking import Finding, check_masking
from kdiga.evaluation.measure import measure
from kdiga.evaluation.stages import AttackSettings
from kdiga.results.evaluations import EvaluationResult
from kdiga.runs.work_units import OnProgress, ResultCache
from kdiga.types import ThreatModel, parse_number
from kdiga.workflows.loaded_model import (
    LoadedModel,
    TestSet,
    count_trained_images,
    load_judged_model,
    load_with_test_set,
    result_folder,
)
from kdiga.workflows.requests import EvaluateRequest, ModelRequest
from kdiga.workflows.result_folder import Outcome, ResultFolder

AUTO_SWEEP = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0)
# Results with equal values of these answer the same question.
IDENTITY = ("fingerprint", "data_fingerprint", "examples", "threat", "seed", "version")
TRAINED = "trained_test_images"  # number of test images that the run was trained on


def run_evaluation(request: EvaluateRequest, *, command: str = "", progress: OnProgress | None = None) -> Outcome:
    """Attack a model, and write ``evaluation.json``, with the command, where there is a folder."""
    _check(request)
    loaded, test_set = load_with_test_set(request, request.model)
    _sweep_values(request.sweep, test_set.threat)
    about = loaded.about | test_set.about() | {"seed": request.seed, "version": request.version}
    folder = result_folder(request, request.model, "evaluation", test_set)
    identity = {name: about[name] for name in IDENTITY}
    results = ResultFolder(folder, EvaluationResult, identity, overwrite=request.overwrite)
    with _helpers(request, results.work_units):
        found = _attack(request, loaded, test_set, results.work_units, progress)
    trained = count_trained_images(request.model, test_set)
    if trained:
        found["findings"] = [*found["findings"], _trained_on(trained, len(test_set.images)).to_dict()]
    if trained is not None:
        about[TRAINED] = trained
    content = {"kind": "evaluation", "command": command} | about | found
    return results.write(content, lambda old, new: _joined(old, new, request))


def _trained_on(count: int, total: int) -> Finding:
    message = f"The model was trained on {count} of the {total} test images, on which its accuracy says little."
    return Finding("trained-on", "failed", message, {"images": count, "of": total})


def _check(request: EvaluateRequest) -> None:
    """Check what can be checked before anything is loaded."""
    _sweep_values(request.sweep, ThreatModel("l2"))  # the norm may be the run's own
    for name in request.attacks:
        attack_by_name(name, version=request.version)
    if attack_by_name(request.sweep_attack) is None:
        raise InputError("--sweep-attack was 'clean'; name an attack that uses eps, for example pgd-20.")
    if request.transfer_from and not request.checks_masking:
        raise InputError("--transfer-from was given with --no-checks; it is one of the checks. Leave one of them out.")


def _sweep_values(given: str | None, threat: ThreatModel) -> list[float]:
    """Return the eps values of the sweep, in rising order from 0; each is checked."""
    if given is None:
        return []
    if given == "auto":
        largest = 1.0 if threat.norm == "linf" else math.inf
        return sorted({min(threat.eps * share, largest) for share in AUTO_SWEEP})
    values = sorted({0.0, *map(parse_number, given.split(","))})
    return [ThreatModel(threat.norm, eps).eps for eps in values]


def _joined(old: Mapping[str, Any], content: Mapping[str, Any], request: EvaluateRequest) -> dict[str, Any]:
    """Return new results with those of earlier calls: no measurement is lost."""
    joined = {name: old.get(name, {}) | content[name] for name in BY_ATTACK}
    findings = joined_findings(old.get("findings", []), content["findings"])
    return {**old, **content, **joined, "findings": findings}


def _attack(
    request: EvaluateRequest,
    loaded: LoadedModel,
    test_set: TestSet,
    work_units: Path | None,
    progress: OnProgress | None,
) -> dict[str, Any]:
    settings = AttackSettings(test_set.threat, request.seed, request.batch_size, ResultCache(work_units), progress)
    model, images = loaded.model, test_set.images
    found = measure(model, images.batches(), settings, request.attacks, version=request.version).to_dict()
    for worst in found["worst_class"].values():
        worst["name"] = images.classes[worst["label"]]
    if values := _sweep_values(request.sweep, test_set.threat):
        found["sweep"] = sweep(model, images.batches(), settings, values, request.sweep_attack).to_dict()
    if request.corruptions:
        found["corruptions"] = corruption_accuracy(model, images.batches(), settings).to_dict()
        if worst := found["corruptions"]["worst_class"]:
            worst["name"] = images.classes[worst["label"]]
    if request.checks_masking:
        checked = [finding.to_dict() for finding in _checked(request, loaded, test_set, settings)]
        found["findings"] = joined_findings(checked, found["findings"])
    return found


def _checked(
    request: EvaluateRequest, loaded: LoadedModel, test_set: TestSet, settings: AttackSettings
) -> list[Finding]:
    def load(name: str, role: str) -> nn.Module:
        return load_judged_model(name, test_set, ModelRequest(device=request.device), role).model

    return check_masking(
        loaded.model,
        to_pixels(test_set.images.images).to(loaded.device),
        test_set.images.labels.to(loaded.device),
        threat=test_set.threat,
        seed=request.seed,
        teacher=None if request.teacher is None else load(request.teacher, "teacher"),
        transfer_from={name: load(name, "source model") for name in request.transfer_from},
        result_cache=settings.result_cache,
        on_progress=settings.progress,
    )


@contextmanager
def _helpers(request: EvaluateRequest, work_units: Path | None) -> Generator[None]:
    """Let other processes share the work units while the block runs; without a folder there is nothing to share."""
    if request.workers < 2 or work_units is None:
        yield
        return
    with one_thread(), LocalExecutor(request.workers - 1) as executor:
        for _ in range(request.workers - 1):
            executor.submit(_help, request, work_units)
        yield


def _help(request: EvaluateRequest, work_units: Path) -> None:
    with one_thread():
        _attack(request, *load_with_test_set(request, request.model), work_units, None)
