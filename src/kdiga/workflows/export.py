"""An export as asked for on a command line: files written, checked, attacked, timed and described."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdiga.errors import InputError
from kdiga.evaluation import AttackResult
from kdiga.evaluation.stages import AttackSettings
from kdiga.export.exported_files import REFERENCE, ExportedFile, with_version, write_all
from kdiga.export.file_attacks import (
    QUERIES,
    SQUARE_BATCH_SIZE,
    TRANSFER_BATCH_SIZE,
    attack_by_queries,
    transfer_attacks,
    transfer_to_files,
)
from kdiga.export.file_measurements import FileMeasurements, Latency, agreement, latencies, logits_of, with_worst
from kdiga.export.formats import Format, Logits, formats_by_name
from kdiga.export.onnx_file import INT8, INT8_FILE, ONNX, read_onnx
from kdiga.model_state import device_of
from kdiga.runs.provenance import installed_version, provenance
from kdiga.runs.work_units import FOLDER, OnProgress, ResultCache
from kdiga.training.runtime import device_by_name
from kdiga.workflows.export_folder import claim_export, finish_export
from kdiga.workflows.loaded_model import LoadedModel, TestSet, load_judged_model, load_test_set, training_images
from kdiga.workflows.model_card import write_cards

TRANSFER = ("pgd-40", "cw-40")
# What exports must share to be written of in one file.
IDENTITY = ("fingerprint", "data_fingerprint", "examples", "threat", "seed", "measured")


@dataclass(frozen=True)
class ExportRequest:
    """What to export, and how closely to look at it.

    Args:
        model: a run's folder, a .safetensors file, or an architecture with ``weights``.
        formats: names.
        int8: quantise the ONNX file as well.
        calibration: training images that int8 takes its scales from.
        data: name of the data set; None is the run's.
        root: folder that holds the data.
        eps: number or fraction; None is the run's.
        norm: "linf" or "l2"; None is the run's.
        examples: test images, the first so many.
        transfer: attacks made on the model and tried on the files; () for none.
        score_examples: test images that Square attacks, the first so many.
        queries: of Square; 0 leaves it out.
        which: "best" or "last" weights of a run.
        weights: state dict to put into a named architecture.
        normalization: of those weights.
        seed: of attacks.
        device: "auto", "cpu" or "cuda", where attacks on the model itself are made; files run on the CPU.
        out: folder; None is one in the run's.
        overwrite: whether an export in that folder may be replaced.
    """

    model: str
    formats: Sequence[str]
    int8: bool = False
    calibration: int = 256
    data: str | None = None
    root: Path | None = None
    eps: str | None = None
    norm: str | None = None
    examples: int = 1000
    transfer: Sequence[str] = TRANSFER
    score_examples: int = 200
    queries: int = QUERIES
    which: str = "best"
    weights: Path | None = None
    normalization: str | None = None
    seed: int = 0
    device: str = "auto"
    out: Path | None = None
    overwrite: bool = False

    def check(self) -> list[Format]:
        """Check what can be checked before anything is loaded, and return the formats.

        Raises:
            InputError: for an unknown format or attack, a package that is not installed, numbers out of range, or
                int8 without onnx.
        """
        chosen = formats_by_name(self.formats)
        for one in chosen:
            one.check_packages()
        transfer_attacks(self.transfer)
        device_by_name(self.device)
        if self.int8 and ONNX not in chosen:
            raise InputError("int8 was asked for without onnx, which it is made from; add it: --to onnx --int8.")
        for name, least in (("calibration", 1), ("examples", 1), ("score_examples", 1), ("queries", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name} was {getattr(self, name)!r}; it must be at least {least}.")
        return chosen

    def folder(self) -> Path:
        """Return where files are written.

        Raises:
            InputError: for a model that is no run, if no folder is given.
        """
        if self.out is not None:
            return self.out
        if not Path(self.model).is_dir():
            raise InputError(f"{self.model!r} is no run's folder, so say where its export goes with --out.")
        return Path(self.model) / "export" / self.which

    def measured(self) -> dict[str, Any]:
        """Return what is measured, as plain data."""
        return {
            "transfer": [attack.name for attack in transfer_attacks(self.transfer)],
            "score_examples": min(self.score_examples, self.examples),
            "queries": self.queries,
        }


@dataclass(frozen=True)
class ExportOutcome:
    """What was written.

    Args:
        folder: that holds it.
        formats: written and measured now, by name, the model in PyTorch first.
        content: of ``run_export.json``.
    """

    folder: Path
    formats: Mapping[str, FileMeasurements]
    content: dict[str, Any]


def run_export(request: ExportRequest, *, command: str = "", progress: OnProgress | None = None) -> ExportOutcome:
    """Write what is asked for, check it against the model, measure it, and write ``run_export.json`` and a model card.

    Attacks are kept in portions, so that the same command goes on where it was interrupted.

    Args:
        request: what.
        command: how the user asked.
        progress: called with attack, examples done and examples to do.

    Raises:
        InputError: for anything in the request that cannot be had, a network that a format cannot hold, or a file
            that does not compute what the model does.
    """
    chosen = request.check()
    folder = request.folder()
    test_set = load_test_set(
        [request.model],
        data=request.data,
        root=request.root,
        eps=request.eps,
        norm=request.norm,
        examples=request.examples,
    )
    loaded = load_judged_model(
        request.model,
        test_set,
        which=request.which,
        weights=request.weights,
        normalization=request.normalization,
        device="cpu",
    )
    about = loaded.about | test_set.about() | {"seed": request.seed, "measured": request.measured()}
    files = [one.file for one in chosen] + [INT8_FILE] * request.int8
    identity = {name: about[name] for name in IDENTITY}
    old = claim_export(folder, identity, files, overwrite=request.overwrite)
    written = write_all(loaded.model, chosen, folder, _calibration(request))
    settings = AttackSettings(
        test_set.threat, request.seed, TRANSFER_BATCH_SIZE, ResultCache(folder / FOLDER), progress
    )
    formats = _measure(request, loaded, test_set, written, settings)
    content = {"kind": "export", "command": command} | about | {"provenance": _provenance(), "calibration": None}
    if request.int8:
        content["calibration"] = request.calibration
    content = old | content | {"formats": old.get("formats", {}) | {n: one.to_dict() for n, one in formats.items()}}
    write_cards(folder, request.model, loaded, test_set, content)
    finish_export(folder, content)
    return ExportOutcome(folder, formats, content)


def _calibration(request: ExportRequest) -> Tensor | None:
    if not request.int8:
        return None
    return training_images([request.model], request.calibration, data=request.data, root=request.root)


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
    times = _latencies(loaded, written, images)
    attacked = _attack(request, loaded, [measured[name].file for name in logits], (images, labels), settings)
    for name, found in logits.items():
        clean = AttackResult("clean", tuple((found.argmax(1) == labels).tolist()), 0.0)
        results = with_worst({"clean": clean} | attacked[name])
        measured[name] = replace(measured[name], results=results, latency=times[name])
    # A file that is the model, bit for bit, has its measurements.
    own = measured[REFERENCE]
    return {
        name: replace(one, results=own.results, latency=own.latency) if one.same_as else one
        for name, one in measured.items()
    }


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


def _latencies(loaded: LoadedModel, written: Sequence[ExportedFile], images: Tensor) -> dict[str, dict[int, Latency]]:
    """Time the model and the files in one thread; ONNX files are read again, since a session keeps its threads."""
    calls: dict[str, Any] = {REFERENCE: loaded.model}
    for file in written:
        is_onnx = file.path is not None and file.path.suffix == ".onnx"
        calls[file.name] = read_onnx(file.path, threads=1) if is_onnx and file.path else file.call
    with torch.no_grad():
        return latencies(calls, images[:64])


def _provenance() -> dict[str, Any]:
    found = provenance()
    return found | {"versions": found["versions"] | {name: installed_version(name) for name in ("onnx", "onnxruntime")}}
