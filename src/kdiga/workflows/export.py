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
from kdiga.runs.work_units import FOLDER, OnProgress, Shelf
from kdiga.training.runtime import device_by_name
from kdiga.workflows.export_folder import claim_export, finish_export
from kdiga.workflows.loaded_model import Ground, Subject, load_ground, load_subject, training_images
from kdiga.workflows.model_card import write_cards

TRANSFER = ("pgd-40", "cw-40")
# What exports must share to be written of in one file.
IDENTITY = ("fingerprint", "data_fingerprint", "examples", "threat", "seed", "measured")


@dataclass(frozen=True)
class Request:
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
            "score_examples": min(self.score_examples, self.examples), "queries": self.queries,
        }  # fmt: skip


@dataclass(frozen=True)
class Exported:
    """What was written.

    Args:
        folder: that holds it.
        formats: written and measured now, by name, the model in PyTorch first.
        content: of ``export.json``.
    """

    folder: Path
    formats: Mapping[str, Judged]
    content: dict[str, Any]


def export(request: Request, *, command: str = "", progress: OnProgress | None = None) -> Exported:
    """Write what is asked for, check it against the model, measure it, and write ``export.json`` and a model card.

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
    ground = load_ground(
        [request.model], data=request.data, root=request.root, eps=request.eps, norm=request.norm,
        examples=request.examples,
    )  # fmt: skip
    subject = load_subject(
        request.model, ground, which=request.which, weights=request.weights, normalization=request.normalization,
        device="cpu",
    )  # fmt: skip
    about = subject.about | ground.about() | {"seed": request.seed, "measured": request.measured()}
    files = [one.file for one in chosen] + [INT8_FILE] * request.int8
    identity = {name: about[name] for name in IDENTITY}
    old = claim_export(folder, identity, files, overwrite=request.overwrite)
    written = write_all(subject.model, chosen, folder, _calibration(request))
    formats = _judge(request, subject, ground, written, Shelf(folder / FOLDER), progress)
    content = {"kind": "export", "command": command} | about | {"provenance": _provenance(), "calibration": None}
    if request.int8:
        content["calibration"] = request.calibration
    content = old | content | {"formats": old.get("formats", {}) | {n: one.to_dict() for n, one in formats.items()}}
    write_cards(folder, request.model, subject, ground, content)
    finish_export(folder, content)
    return Exported(folder, formats, content)


def _calibration(request: Request) -> Tensor | None:
    if not request.int8:
        return None
    return training_images([request.model], request.calibration, data=request.data, root=request.root)


def _judge(
    request: Request,
    subject: Subject,
    ground: Ground,
    written: Sequence[Written],
    shelf: Shelf,
    progress: OnProgress | None,
) -> dict[str, Judged]:
    """Return the model itself and each file, measured."""
    images = torch.cat([images for images, _ in ground.images.batches()])
    labels, fingerprint = ground.images.labels, subject.about["fingerprint"]
    reference = logits_of(subject.model, images)
    judged = {REFERENCE: Judged(REFERENCE, "", 0, f"torch {installed_version('torch')}", fingerprint)}
    logits, victims = {REFERENCE: reference}, [Victim(REFERENCE, subject.model, fingerprint)]
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
    times = _latencies(subject, written, images)
    attacked = _attack(request, subject, ground, victims, (images, labels), shelf, progress)
    for name, found in logits.items():
        clean = AttackResult("clean", tuple((found.argmax(1) == labels).tolist()), 0.0)
        judged[name] = replace(
            judged[name], results=with_worst({"clean": clean} | attacked[name]), latency=times[name]
        )  # fmt: skip
    # A file that is the model, bit for bit, has its figures.
    own = judged[REFERENCE]
    return {
        name: replace(one, results=own.results, latency=own.latency) if one.same_as else one
        for name, one in judged.items()
    }


def _attack(
    request: Request,
    subject: Subject,
    ground: Ground,
    victims: Sequence[Victim],
    examples: tuple[Tensor, Tensor],
    shelf: Shelf,
    progress: OnProgress | None,
) -> dict[str, dict[str, AttackResult]]:
    images, labels = examples
    device = device_by_name(request.device)
    shared: dict[str, Any] = {"threat": ground.threat, "seed": request.seed, "shelf": shelf, "on_progress": progress}
    subject.model.to(device)
    try:
        found = transferred(
            subject.model, victims, images, labels, attacks=request.transfer,
            fingerprint=subject.about["fingerprint"], **shared,
        )  # fmt: skip
    finally:
        subject.model.to("cpu")
    if request.queries:
        few = slice(request.score_examples)
        for victim in victims:
            result = scored(
                victim, images[few], labels[few], queries=request.queries, **shared
            )  # fmt: skip
            found[victim.name][result.attack] = result
    return found


def _latencies(subject: Subject, written: Sequence[Written], images: Tensor) -> dict[str, dict[int, Latency]]:
    """Time the model and the files in one thread; each is read anew, since a session keeps its threads."""
    calls: dict[str, Any] = {REFERENCE: subject.model}
    for one in written:
        calls[one.name] = read_onnx(one.path, threads=1) if one.path.suffix == ".onnx" else one.call
    with torch.no_grad():
        return latencies(calls, images[:64])


def _provenance() -> dict[str, Any]:
    found = provenance()
    return found | {"versions": found["versions"] | {name: installed_version(name) for name in ("onnx", "onnxruntime")}}
