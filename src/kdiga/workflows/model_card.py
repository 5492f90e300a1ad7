"""Model cards and files for RobustBench, from what an export found and what its run's folder says."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from kdiga.export.card import Card, CardOrigin, Number
from kdiga.export.robustbench_files import INFO, LOADER, loader_source, model_info
from kdiga.export.safetensors_file import HUB
from kdiga.export.torch_program import PROGRAM
from kdiga.io.atomic_write import write_atomically
from kdiga.methods import available_methods
from kdiga.results.attack_names import attack_name, eps_text
from kdiga.results.certificates import CertificateResult
from kdiga.results.evaluations import EvaluationResult
from kdiga.results.folders import Results, find_results
from kdiga.results.shared import Accuracy, JudgedFile, command_without_folders, without_folders
from kdiga.runs.fingerprints import fingerprint_of_images
from kdiga.runs.run_folder import read_config
from kdiga.statistics import percent, percent_interval
from kdiga.types import ThreatModel
from kdiga.workflows.loaded_model import LoadedModel, TestSet

CARD, HUB_CARD = "model-card.md", "README.md"
KINDS = {"interval": "proved", "smoothing": "with confidence", "clever": "estimated"}


def write_cards(folder: Path, model: str, loaded: LoadedModel, test_set: TestSet, content: Mapping[str, Any]) -> None:
    """Write ``model-card.md``, the README of a Hub folder, and what RobustBench needs where there is a program."""
    run = Path(model) if Path(model).is_dir() else Path(model).parent
    results = find_results([run]) if (run / "config.yaml").is_file() else Results()
    fits = partial(_fits, loaded=loaded, run=run, test_set=test_set)
    evaluations = list(filter(fits, results.evaluations))
    certificates = list(filter(fits, results.certificates))
    numbers = [number for one in evaluations for number in _measured(one)]
    numbers += [number for one in certificates for number in _certified(one)]
    used = {one.path for one in (*evaluations, *certificates)}
    others = [one.path for one in (*results.evaluations, *results.certificates) if one.path not in used]
    spec = loaded.classifier.spec
    card = Card(
        name=Path(model).resolve().name if Path(model).exists() else without_folders(model),
        spec=spec,
        parameters=loaded.about["parameters"],
        fingerprint=loaded.about["fingerprint"],
        data=without_folders(test_set.data),
        class_names=list(test_set.images.classes),
        threat=test_set.threat,
        formats=content["formats"],
        numbers=numbers,
        left_out=[str(path.relative_to(run)) for path in others],
        origin=_origin(run),
        queries=content["measured"]["queries"],
        command=command_without_folders(content["command"]),
        provenance=content["provenance"],
    )
    write_atomically(folder / CARD, card.text())
    if HUB.name in content["formats"]:
        write_atomically(folder / HUB.file / HUB_CARD, card.text(only=HUB.name))
    if PROGRAM.name in content["formats"]:
        best = _under_autoattack(evaluations, test_set.threat)
        info = model_info(
            threat=test_set.threat,
            data=without_folders(test_set.data),
            architecture=spec.name,
            clean=best["clean"].value if best else content["formats"][PROGRAM.name]["accuracy"]["clean"],
            autoattack=best["autoattack"].value if best else None,
        )
        write_atomically(folder / LOADER, loader_source(test_set.threat, without_folders(test_set.data), spec.takes))
        write_atomically(folder / INFO, json.dumps(info, indent=2) + "\n")


def _fits(one: JudgedFile, loaded: LoadedModel, run: Path, test_set: TestSet) -> bool:
    """Return whether a result is about the model and the images, as far as it can be compared.

    The model is compared by its weights; for older files, which do not say them, by the run. The images are compared
    where the export has as many.
    """
    identity, images = one.identity, one.examples or 0
    if identity.fingerprint:
        same = identity.fingerprint == loaded.about["fingerprint"]
    else:
        same = identity.folder == run and identity.which == loaded.about["which"]
    if not same or one.data != test_set.data or not one.data_fingerprint or images > len(test_set.images):
        return same and one.data == test_set.data
    # Studies hash the files where the images are files.
    sets = (test_set.images, test_set.source)
    return one.data_fingerprint in {fingerprint_of_images(data.take(slice(images))) for data in sets}


def _measured(one: EvaluationResult) -> Iterator[Number]:
    threat = f"{one.threat.norm} eps {eps_text(one.threat.eps)}"
    for attack, found in one.measured.items():
        what = "clean accuracy" if attack == "clean" else f"accuracy under {attack_name(attack)}, {threat}"
        value = f"{percent(found.value)} ({percent_interval(found.interval)})"
        yield Number(what, value, found.images, command_without_folders(one.origin.command) or one.path.name)
    command = command_without_folders(one.origin.command)
    for finding in one.findings:
        if finding.verdict in ("failed", "warning"):
            yield Number(f"check {finding.name}", f"{finding.verdict}: {finding.message}", None, command)


def _certified(one: CertificateResult) -> Iterator[Number]:
    for kind, radii in one.radii.items():
        value = "none" if radii.median is None else f"{radii.median:.4g}"
        what = f"median {one.norm_of(kind)} radius, {kind} ({KINDS[kind]})"
        command = command_without_folders(one.origin.command)
        yield Number(what, value, len(radii.radius), command or one.path.name)


def _under_autoattack(evaluations: list[EvaluationResult], threat: ThreatModel) -> Mapping[str, Accuracy]:
    """Return the accuracies of the evaluation with AutoAttack on most images at a threat model; {} for none."""
    found = [
        one.measured
        for one in evaluations
        if {"clean", "autoattack"} <= one.accuracy.keys()
        and one.threat.norm == threat.norm
        and abs(one.threat.eps - threat.eps) < 1e-6
    ]
    return max(found, key=lambda one: one["autoattack"].images, default={})


def _origin(run: Path) -> CardOrigin:
    recipe = read_config(run)
    if recipe is None:
        return CardOrigin()
    method, teacher = recipe.get("method") or {}, recipe.get("teacher") or {}
    name = str(method.get("name", "")) if isinstance(method, dict) else str(method)
    known = available_methods().get(name)
    return CardOrigin(
        name,
        known.info.paper if known else "paper unknown",
        without_folders(str(teacher.get("name", ""))),
        yaml.safe_dump(without_folders(recipe), sort_keys=False),
    )
