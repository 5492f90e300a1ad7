"""``kdiga export``: files of a model for other programs: written, checked, attacked, timed and described."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdiga.errors import InputError
from kdiga.evaluation import AttackResult
from kdiga.export.agreement import agreement, check_same, logits_of
from kdiga.export.formats import Format, formats_by_name
from kdiga.export.int8 import FILE as INT8_FILE
from kdiga.export.int8 import NAME as INT8
from kdiga.export.judged import Judged, with_worst
from kdiga.export.latency import Latency, latencies
from kdiga.export.onnx_file import ONNX, read_onnx
from kdiga.export.score_attack import scored
from kdiga.export.transfer import Victim, transfer_attacks, transferred
from kdiga.export.written import REFERENCE, Written, write_all
from kdiga.runs.provenance import installed_version, provenance
from kdiga.runs.work_units import OnProgress, ResultCache
from kdiga.training.runtime import device_by_name
from kdiga.workflows.export_folder import claim_export, finish_export
from kdiga.workflows.judging import load_with_test_set
from kdiga.workflows.loaded_model import LoadedModel, TestSet, training_images
from kdiga.workflows.model_card import write_cards
from kdiga.workflows.requests import ExportRequest

# Exports with equal values of these share a folder and its export.json.
IDENTITY = ("fingerprint", "data_fingerprint", "examples", "threat", "seed", "measured")


@dataclass(frozen=True)
class ExportOutcome:
    """Results of an export.

    Args:
        folder: Folder of the files.
        formats: Formats written and measured now, by name, the model in PyTorch first.
        content: Content of ``export.json``.
    """

    folder: Path
    formats: Mapping[str, Judged]
    content: dict[str, Any]


def run_export(request: ExportRequest, *, command: str = "", progress: OnProgress | None = None) -> ExportOutcome:
    """Write files, check them against the model, measure them, and write ``export.json`` and a model card.

    Attacks are stored by work unit, so that the same command continues after an interruption.

    Args:
        request: Model, formats and test set.
        command: Command line of the user.
        progress: Called with attack, number of examples done and number of examples.

    Raises:
        InputError: If something in the request cannot be had, a format cannot hold the network, or a file does not
            compute what the model does.
    """
    chosen = _check(request)
    folder = _folder(request)
    # The files run on the CPU, so the model is compared with them there.
    loaded, test_set = load_with_test_set(replace(request, device="cpu"), request.model)
    measured = {
        "transfer": [attack.name for attack in transfer_attacks(request.transfer)],
        "score_examples": min(request.score_examples, request.examples),
        "queries": request.queries,
    }
    about = loaded.about | test_set.about() | {"seed": request.seed, "measured": measured}
    files = [one.file for one in chosen] + [INT8_FILE] * request.int8
    results = claim_export(folder, {name: about[name] for name in IDENTITY}, files, overwrite=request.overwrite)
    calibration = (
        training_images([request.model], request.calibration, data=request.data, root=request.root)
        if request.int8
        else None
    )
    written = write_all(loaded.model, chosen, folder, calibration)
    formats = _judge(request, loaded, test_set, written, results.cache, progress)
    content = {"kind": "export", "command": command} | about | {"provenance": _provenance()}
    content["calibration"] = request.calibration if request.int8 else None
    content["formats"] = results.earlier.get("formats", {}) | {name: one.to_dict() for name, one in formats.items()}
    content = {**results.earlier, **content}
    write_cards(folder, request.model, loaded, test_set, content)
    results.write(content)
    finish_export(folder)
    return ExportOutcome(folder, formats, content)


def _check(request: ExportRequest) -> list[Format]:
    """Check what can be checked before anything is loaded, and return the formats.

    Raises:
        InputError: For an unknown format or attack, a package that is not installed, numbers out of range, or int8
            without onnx.
    """
    chosen = formats_by_name(request.to)
    for one in chosen:
        one.check_packages()
    transfer_attacks(request.transfer)
    device_by_name(request.device)
    if request.int8 and ONNX not in chosen:
        raise InputError("int8 was asked for without onnx, which it is made from; add it: --to onnx --int8.")
    for name, least in (("calibration", 1), ("examples", 1), ("score_examples", 1), ("queries", 0)):
        if getattr(request, name) < least:
            raise InputError(f"{name} was {getattr(request, name)!r}; it must be at least {least}.")
    return chosen


def _folder(request: ExportRequest) -> Path:
    if request.out is not None:
        return request.out
    if not Path(request.model).is_dir():
        raise InputError(f"{request.model!r} is not a run folder, so say where its export goes with --out.")
    return Path(request.model) / "export" / request.which


def _judge(
    request: ExportRequest,
    loaded: LoadedModel,
    test_set: TestSet,
    written: Sequence[Written],
    result_cache: ResultCache,
    progress: OnProgress | None,
) -> dict[str, Judged]:
    """Return the model itself and each file, measured."""
    images = torch.cat([images for images, _ in test_set.images.batches()])
    labels, fingerprint = test_set.images.labels, loaded.about["fingerprint"]
    reference = logits_of(loaded.model, images)
    judged = {REFERENCE: Judged(REFERENCE, "", 0, f"torch {installed_version('torch')}", fingerprint)}
    logits, victims = {REFERENCE: reference}, [Victim(REFERENCE, loaded.model, fingerprint)]
    for one in written:
        found = logits_of(one.call, images)
        near = agreement(found, reference)
        if one.name != INT8:
            check_same(one.name, near)
        judged[one.name] = Judged(one.name, one.path.name, one.size, one.runtime, one.digest(), near)
        if one.is_model and near.largest_difference == 0:
            judged[one.name] = replace(judged[one.name], same_as=REFERENCE)
        else:
            logits[one.name] = found
            victims.append(Victim(one.name, one.call, one.digest()))
    times = _latencies(loaded, written, images)
    attacked = _attack(request, loaded, test_set, victims, (images, labels), result_cache, progress)
    for name, found in logits.items():
        clean = AttackResult("clean", tuple((found.argmax(1) == labels).tolist()), 0.0)
        judged[name] = replace(judged[name], results=with_worst({"clean": clean} | attacked[name]), latency=times[name])
    # A file that is the model, bit for bit, has its figures.
    own = judged[REFERENCE]
    return {
        name: replace(one, results=own.results, latency=own.latency) if one.same_as else one
        for name, one in judged.items()
    }


def _attack(
    request: ExportRequest,
    loaded: LoadedModel,
    test_set: TestSet,
    victims: Sequence[Victim],
    examples: tuple[Tensor, Tensor],
    result_cache: ResultCache,
    progress: OnProgress | None,
) -> dict[str, dict[str, AttackResult]]:
    images, labels = examples
    device = device_by_name(request.device)
    shared: dict[str, Any] = {
        "threat": test_set.threat,
        "seed": request.seed,
        "result_cache": result_cache,
        "on_progress": progress,
    }
    loaded.model.to(device)
    try:
        found = transferred(
            loaded.model,
            victims,
            images,
            labels,
            attacks=request.transfer,
            fingerprint=loaded.about["fingerprint"],
            **shared,
        )
    finally:
        loaded.model.to("cpu")
    if request.queries:
        few = slice(request.score_examples)
        for victim in victims:
            result = scored(victim, images[few], labels[few], queries=request.queries, **shared)
            found[victim.name][result.attack] = result
    return found


def _latencies(loaded: LoadedModel, written: Sequence[Written], images: Tensor) -> dict[str, dict[int, Latency]]:
    """Time the model and the files in one thread; each is read anew, since a session keeps its threads."""
    calls: dict[str, Any] = {REFERENCE: loaded.model}
    for one in written:
        calls[one.name] = read_onnx(one.path, threads=1) if one.path.suffix == ".onnx" else one.call
    with torch.no_grad():
        return latencies(calls, images[:64])


def _provenance() -> dict[str, Any]:
    found = provenance()
    return found | {"versions": found["versions"] | {name: installed_version(name) for name in ("onnx", "onnxruntime")}}
