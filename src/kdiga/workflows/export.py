"""``kdiga export``: files of a model for other programs: written, checked, attacked, timed and described."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdiga.errors import InputError, check_at_least
from kdiga.evaluation import AttackResult
from kdiga.evaluation.stages import AttackSettings
from kdiga.export.exported_files import REFERENCE, ExportedFile, read_again, with_version, write_all
from kdiga.export.file_attacks import (
    SQUARE_BATCH_SIZE,
    TRANSFER_BATCH_SIZE,
    attack_by_queries,
    transfer_attacks,
    transfer_to_files,
)
from kdiga.export.file_measurements import FileMeasurements, agreement, latencies, logits_of, with_worst
from kdiga.export.formats import Format, Logits, available_formats, formats_by_name
from kdiga.export.onnx_file import INT8, INT8_FILE, ONNX, read_onnx
from kdiga.export.robustbench_files import INFO, LOADER
from kdiga.io.atomic_write import write_atomically
from kdiga.io.safe_json_yaml import load_json
from kdiga.losses import classified_correctly
from kdiga.model_state import device_of
from kdiga.results.exports import ExportResult
from kdiga.runs.provenance import installed_version, provenance
from kdiga.runs.work_units import OnProgress
from kdiga.training.runtime import device_by_name
from kdiga.workflows.loaded_model import LoadedModel, TestSet, load_with_test_set, training_images
from kdiga.workflows.model_card import CARD, write_cards
from kdiga.workflows.requests import ExportRequest
from kdiga.workflows.result_folder import Outcome, ResultFolder, file_name

UNFINISHED = "export.unfinished"  # identity of an interrupted export, so that the same command may continue
# Exports with equal values of these share a folder and its export.json.
IDENTITY = ("fingerprint", "data_fingerprint", "examples", "threat", "seed", "measured")


def run_export(request: ExportRequest, *, command: str = "", progress: OnProgress | None = None) -> Outcome:
    """Write files, check them against the model, measure them, and write ``export.json`` and a model card.

    Attacks are stored by work unit, so that the same command continues after an interruption.

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
    results = _claim(folder, {name: about[name] for name in IDENTITY}, files, overwrite=request.overwrite)
    calibration = training_images(request.model, request.calibration, request) if request.int8 else None
    written = write_all(loaded.classifier, chosen, folder, calibration)
    settings = AttackSettings(test_set.threat, request.seed, TRANSFER_BATCH_SIZE, results.cache, progress)
    earlier = results.earlier.get("formats", {})
    formats = {name: one.to_dict() for name, one in _measure(request, loaded, test_set, written, settings).items()}
    files_there = [*written, *read_again(folder, {name: earlier[name] for name in earlier if name not in formats})]
    content = {"kind": "export", "command": command} | about | {"provenance": _provenance()}
    content["calibration"] = request.calibration if request.int8 else results.earlier.get("calibration")
    content["formats"] = _timed(earlier | formats, loaded, files_there, next(test_set.images.batches(64))[0])
    content = {**results.earlier, **content}
    write_cards(folder, request.model, loaded, test_set, content)
    outcome = results.write(content)
    (folder / UNFINISHED).unlink()
    return outcome


def _check(request: ExportRequest) -> list[Format]:
    """Check what can be checked before anything is loaded, and return the formats."""
    chosen = formats_by_name(request.to)
    for one in chosen:
        one.check_packages()
    transfer_attacks(request.transfer)
    device_by_name(request.device)
    if request.int8 and ONNX not in chosen:
        raise InputError("--int8 needs the onnx format, which it is made from; add it: --to onnx --int8.")
    for name, least in (("calibration", 1), ("examples", 1), ("score_examples", 1), ("queries", 0)):
        check_at_least(least, **{name: getattr(request, name)})
    return chosen


def _folder(request: ExportRequest) -> Path:
    if request.out is not None:
        return request.out
    if not Path(request.model).is_dir():
        raise InputError(f"{request.model!r} is not a run folder; give the folder of the export with --out.")
    return Path(request.model) / "export" / request.which


def _claim(folder: Path, identity: Mapping[str, Any], files: Sequence[str], *, overwrite: bool) -> ResultFolder:
    """Prepare a folder for an export of these files, and return its ``export.json``."""
    results = ResultFolder(folder, ExportResult, identity, overwrite=overwrite)
    present = [name for name in files if (folder / name).exists()]
    # Lists and tuples are equal in JSON alone.
    if present and not overwrite and _interrupted(folder) != json.loads(json.dumps(identity)):
        raise InputError(
            f"{str(folder)!r} already holds an export ({present[0]}); replace it with --overwrite, or choose another "
            "--out. Formats that are not there yet are added."
        )
    if overwrite and not results.earlier:
        _remove(folder)
    write_atomically(folder / UNFINISHED, json.dumps(identity) + "\n")
    return results


def _interrupted(folder: Path) -> Any:
    try:
        return load_json(folder / UNFINISHED)
    except (OSError, ValueError):
        return None


def _remove(folder: Path) -> None:
    """Remove the files of an export of something else, so that every file in the folder is in ``export.json``."""
    exported = [one.file for one in formats_by_name(available_formats())]
    for name in (file_name(ExportResult), CARD, LOADER, INFO, INT8_FILE, *exported):
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _measure(
    request: ExportRequest,
    loaded: LoadedModel,
    test_set: TestSet,
    written: Sequence[ExportedFile],
    settings: AttackSettings,
) -> dict[str, FileMeasurements]:
    """Return the measurements of the model itself and of each file."""
    images = torch.cat([images for images, _ in test_set.images.batches()])
    labels = test_set.images.labels
    model = ExportedFile(REFERENCE, _on_its_device(loaded.model), loaded.about["fingerprint"], with_version("torch"))
    measured = {REFERENCE: FileMeasurements(model)}
    logits = {REFERENCE: logits_of(loaded.model, images)}
    for file in written:
        found = logits_of(file.call, images)
        near = agreement(found, logits[REFERENCE])
        if file.name != INT8:
            near.check_close(file.name)
        same = file.is_model and near.largest_difference == 0
        measured[file.name] = FileMeasurements(file, near, same_as=REFERENCE if same else "")
        if not same:
            logits[file.name] = found
    attacked = _attack(request, loaded, [measured[name].file for name in logits], (images, labels), settings)
    for name, found in logits.items():
        clean = AttackResult("clean", tuple(classified_correctly(found, labels).tolist()), 0.0)
        measured[name] = replace(measured[name], results=with_worst({"clean": clean} | attacked[name]))
    # A file that is the model, bit for bit, has its measurements.
    own = measured[REFERENCE].results
    return {name: replace(one, results=own) if one.same_as else one for name, one in measured.items()}


def _on_its_device(model: nn.Module) -> Logits:
    """Return the function of a model from images on the CPU; attacks move the model to a GPU for a while."""
    return lambda images: model(images.to(device_of(model)))


def _attack(
    request: ExportRequest,
    loaded: LoadedModel,
    files: Sequence[ExportedFile],
    examples: tuple[Tensor, Tensor],
    settings: AttackSettings,
) -> dict[str, dict[str, AttackResult]]:
    images, labels = examples
    loaded.model.to(device_by_name(request.device))
    try:
        found = transfer_to_files(
            loaded.model,
            files,
            images,
            labels,
            attacks=transfer_attacks(request.transfer),
            fingerprint=loaded.about["fingerprint"],
            settings=settings,
        )
    finally:
        loaded.model.to("cpu")
    if request.queries:
        few, own = slice(request.score_examples), replace(settings, batch_size=SQUARE_BATCH_SIZE)
        for file in files:
            result = attack_by_queries(file, images[few], labels[few], queries=request.queries, settings=own)
            found[file.name][result.attack] = result
    return found


def _timed(
    records: Mapping[str, Mapping[str, Any]], loaded: LoadedModel, files: Sequence[ExportedFile], images: Tensor
) -> dict[str, dict[str, Any]]:
    """Return records of formats with times that can be compared: of the model and these files in turn, in one thread.

    ONNX files are read again, since a session keeps its threads. Other files have no times.
    """
    calls: dict[str, Any] = {REFERENCE: loaded.model}
    for file in files:
        is_onnx = file.path is not None and file.path.suffix == ".onnx"
        calls[file.name] = read_onnx(file.path, threads=1) if is_onnx and file.path else file.call
    with torch.no_grad():
        times = latencies(calls, images)
    return {
        name: {
            **one,
            "latency_ms": {str(size): vars(took) for size, took in times.get(one["same_as"] or name, {}).items()},
        }
        for name, one in records.items()
    }


def _provenance() -> dict[str, Any]:
    found = provenance()
    return found | {"versions": found["versions"] | {name: installed_version(name) for name in ("onnx", "onnxruntime")}}
