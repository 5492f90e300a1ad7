"""A certification as asked for on a command line, into a folder that keeps what is done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

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
from kdiga.errors import InputError, unknown
from kdiga.results.certificates import CertificateResult
from kdiga.runs.provenance import provenance
from kdiga.runs.work_units import FOLDER, OnProgress
from kdiga.types import ThreatModel, parse_number
from kdiga.workflows.loaded_model import (
    LoadedModel,
    TestSet,
    check_earlier_result,
    default_folder,
    load_judged_model,
    load_test_set,
    make_folder,
)

FILE = "certificate.json"
METHODS = ("clever", "smoothing", "interval")
IDENTITY = ("fingerprint", "data_fingerprint", "examples", "threat", "seed")  # of what a result file may be added to

Certificate = Clever | Smoothed | IntervalBounds


@dataclass(frozen=True)
class CertifyRequest:
    """What to certify, and how.

    Args:
        model: a run's folder, a .safetensors file, or an architecture with ``weights``.
        methods: among "clever", "smoothing" and "interval".
        against: its teacher, a run's folder or a .safetensors file; None compares with nothing.
        data: name of the data set; None is the run's.
        root: folder that holds the data.
        eps: number or fraction; None is the run's.
        norm: "linf" or "l2"; None is the run's. Smoothing is always L2.
        examples: only the first so many test images.
        which: "best" or "last" weights of a run.
        weights: state dict to put into a named architecture.
        normalization: of those weights.
        seed: of points and noise.
        device: "auto", "cpu" or "cuda".
        max_radius: number or fraction: of CLEVER's ball, and the largest radius that intervals try; None is eps.
        batches: of points, for CLEVER.
        batch_size: points of a batch, for CLEVER.
        sigma: of the noise.
        samples: of the noise.
        selection_samples: of the noise, that select the class.
        alpha: probability of a wrong radius under smoothing, an example.
        out: folder of results; None is one in the run's folder, or none.
        overwrite: whether results of something else in that folder may be replaced.
    """

    model: str
    methods: Sequence[str] = ("clever", "smoothing")
    against: str | None = None
    data: str | None = None
    root: Path | None = None
    eps: str | None = None
    norm: str | None = None
    examples: int | None = 100
    which: str = "best"
    weights: Path | None = None
    normalization: str | None = None
    seed: int = 0
    device: str = "auto"
    max_radius: str | None = None
    batches: int = 100
    batch_size: int = 25
    sigma: float = 0.25
    samples: int = 1000
    selection_samples: int = 100
    alpha: float = 0.001
    out: Path | None = None
    overwrite: bool = False

    def check(self) -> None:
        """Check what can be checked before anything is loaded.

        Raises:
            InputError: for an unknown method, or settings out of range.
        """
        if not self.methods:
            raise InputError(f"no method was given; accepted: {', '.join(METHODS)}.")
        for name in self.methods:
            if name not in METHODS:
                raise unknown("method", name, METHODS)
        largest = parse_number(1.0 if self.max_radius is None else self.max_radius)
        if "clever" in self.methods:
            Sampling(ThreatModel("l2", largest), self.batches, self.batch_size)
        if "smoothing" in self.methods:
            Noise(self.sigma, self.samples, self.selection_samples, self.alpha)

    def load(self) -> tuple[LoadedModel, LoadedModel | None, TestSet]:
        """Return the model, its teacher where there is one, and what they are judged on."""
        named = [self.model] if self.against is None else [self.model, self.against]
        test_set = load_test_set(
            named, data=self.data, root=self.root, eps=self.eps, norm=self.norm, examples=self.examples
        )
        loaded = load_judged_model(
            self.model,
            test_set,
            which=self.which,
            weights=self.weights,
            normalization=self.normalization,
            device=self.device,
        )
        if self.against is None:
            return loaded, None, test_set
        return loaded, load_judged_model(self.against, test_set, device=self.device, role="teacher"), test_set


@dataclass(frozen=True)
class CertifyOutcome:
    """What was found.

    Args:
        certificates: the model's, by method.
        against: the comparisons with its teacher, by method; empty without one.
        content: of ``certificate.json``.
        folder: that holds it; None where none was asked for.
    """

    certificates: dict[str, Certificate]
    against: dict[str, CertificateComparison]
    content: dict[str, Any]
    folder: Path | None


def run_certification(
    request: CertifyRequest, *, command: str = "", progress: OnProgress | None = None
) -> CertifyOutcome:
    """Certify what is asked for, and write ``certificate.json`` where there is a folder.

    Args:
        request: what.
        command: how the user asked.
        progress: called with method, examples done and examples to do.

    Raises:
        InputError: for anything in the request that cannot be had.
    """
    request.check()
    loaded, teacher, test_set = request.load()
    _check_coverage(request, loaded, teacher, test_set)
    folder = request.out or default_folder(request.model, "certification", test_set, request.which)
    about = loaded.about | test_set.about() | {"seed": request.seed}
    old: dict[str, Any] = {}
    if folder is not None:
        old = check_earlier_result(folder / FILE, {name: about[name] for name in IDENTITY}, overwrite=request.overwrite)
        make_folder(folder)
    certificates, against = _run(request, loaded, teacher, test_set, folder, progress)
    content = {"kind": "certificate", "command": command} | about | {"provenance": provenance(_device(loaded))}
    content |= {name: found.to_dict() for name, found in certificates.items()}
    if teacher is not None:
        content["against"] = {"teacher": teacher.about} | {name: found.to_dict() for name, found in against.items()}
    content = _added(old, content)
    if folder is not None:
        CertificateResult.model_validate(content).write(folder / FILE)
    return CertifyOutcome(certificates, against, content, folder)


def _check_coverage(
    request: CertifyRequest, loaded: LoadedModel, teacher: LoadedModel | None, test_set: TestSet
) -> None:
    """Refuse a network that intervals do not cover before minutes go into the other methods."""
    if "interval" not in request.methods:
        return
    image = to_pixels(test_set.images.images[:1])[0].to(_device(loaded))
    trace_network(loaded.model, image)
    if teacher is not None:
        trace_network(teacher.model, image, "teacher")


def _run(
    request: CertifyRequest,
    loaded: LoadedModel,
    teacher: LoadedModel | None,
    test_set: TestSet,
    folder: Path | None,
    progress: OnProgress | None,
) -> tuple[dict[str, Certificate], dict[str, CertificateComparison]]:
    images, labels = to_pixels(test_set.images.images), test_set.images.labels
    shared = {"folder": None if folder is None else folder / FOLDER, "progress": progress}
    certificates, against = dict[str, Certificate](), dict[str, CertificateComparison]()
    for name in dict.fromkeys(request.methods):
        alone, beside, settings = _method(name, request, test_set.threat)
        if teacher is None:
            certificates[name] = alone(loaded.model, images, labels, **settings, **shared)
        else:
            found = beside(loaded.model, teacher.model, images, labels, **settings, **shared)
            certificates[name], against[name] = found.student, found
    return certificates, against


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
                "batches": request.batches,
                "batch_size": request.batch_size,
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


def _added(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Return new results with those of an earlier call that are not replaced."""
    kept, against = old.get("against"), new.get("against")
    if kept and against and kept["teacher"]["fingerprint"] == against["teacher"]["fingerprint"]:
        against = kept | against
    joined = old | new
    return joined if against is None else joined | {"against": against}


def _device(loaded: LoadedModel) -> torch.device:
    return next(loaded.model.parameters()).device
