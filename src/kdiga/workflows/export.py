"""An export as asked for on a command line: files written, checked, attacked, timed and described."""

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
from kdiga.export.score_attack import QUERIES, scored
from kdiga.export.transfer import Victim, transfer_attacks, transferred
from kdiga.export.written import REFERENCE, Written, write_all
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
    formats: Mapping[str, Judged]
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
    formats = _judge(request, loaded, test_set, written, ResultCache(folder / FOLDER), progress)
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
