"""The function that measures clean and robust accuracy of any module on any images."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from kdiga.arguments import checked
from kdiga.data import DataSet, FileSet, ImageSet
from kdiga.data.file_set import first_images
from kdiga.data.image_set import to_pixels
from kdiga.errors import InputError, KdigaWarning
from kdiga.evaluation.accuracies import Evaluation
from kdiga.evaluation.corruptions import corruption_accuracy
from kdiga.evaluation.masking import Finding, check_masking
from kdiga.evaluation.measure import BATCH_SIZE, gathered, measure
from kdiga.evaluation.stages import AttackSettings
from kdiga.model_state import evaluating
from kdiga.progress_bar import progress_of
from kdiga.runs.fingerprints import describe_model, fingerprint_of_images
from kdiga.runs.provenance import call_of
from kdiga.runs.work_units import OnProgress, ResultCache
from kdiga.types import ThreatModel

GivenData = DataSet | ImageSet | FileSet | Iterable[tuple[Tensor, Tensor]]
UNNAMED = "images"  # name of data that has none
CAME_IN_TRAIN_MODE = Finding(
    "eval-mode", "skipped", "the model came in train mode; kdiga.evaluate runs every model in eval mode.", {}
)


@checked
def evaluate(
    model: nn.Module,
    batches: GivenData,
    *,
    eps: float | str | None = None,
    norm: str | None = None,
    threat: ThreatModel | str | None = None,
    attacks: Sequence[str] = ("clean", "pgd-20"),
    examples: int | None = None,
    seed: int = 0,
    version: str = "standard",
    batch_size: int = BATCH_SIZE,
    folder: Path | None = None,
    name: str | None = None,
    checks: bool = False,
    corruptions: bool = False,
    teacher: nn.Module | None = None,
    transfer_from: Mapping[str, nn.Module] | None = None,
    progress: OnProgress | bool | None = None,
) -> Evaluation:
    """Measure clean and robust accuracy.

    Every attack gets only the correctly classified examples, and its accuracy is the share of all examples that are
    still classified correctly afterwards. The model runs in eval mode, where its parameters are, and is left
    unchanged.

    With a folder, the outcome of each stage of each attack on each batch is cached there as soon as it is known. The
    same call then continues where it was interrupted, a call with more attacks or more examples adds to the cache,
    and several processes with the same call share the work. The result is the same in every case.

    Args:
        model: Network from images to logits (batch, num_classes).
        batches: Test images: a :class:`kdiga.DataSet`, of which the test part is used, a :class:`kdiga.ImageSet`, or
            pairs of images, float (batch, channel, height, width) in [0, 1], and int labels; or dicts of them.
        eps: Size of the ball in pixels in [0, 1]; a number or a fraction such as "8/255", which is the default.
        norm: "linf", which is the default, "l2" or "l1", in any case.
        threat: Threat model in place of both: a :class:`kdiga.ThreatModel`, or text such as "linf 8/255".
        attacks: Names among "clean", "fgsm", "pgd-STEPS", "cw-STEPS", both with "xRESTARTS", and "autoattack".
        examples: Number of examples, the first ones; None for all.
        seed: Seed of random starts.
        version: Version of AutoAttack: "standard", "plus" or "rand".
        batch_size: Number of examples attacked together, at least 1. Random starts depend on it.
        folder: Folder of cached outcomes; None caches nothing.
        name: Name of the model on a page and in a comparison; None is its architecture or the name of its class.
        checks: Whether to run all checks for masked gradients; the result has all findings.
        corruptions: Whether to measure accuracy under common corruptions as well (``Evaluation.corruptions``).
        teacher: Another model, whose adversarial images the checks try on this one; giving it runs the checks.
        transfer_from: More such models by name, with as many outputs; the finding says how many images each fools.
        progress: Function called with the attack, examples done and examples in total; True for a bar, or lines in a
            log; False for none; None for a bar where stderr is a terminal or the code runs in a notebook.

    Raises:
        InputError: If an attack is unknown, images or labels are out of range, there is no example, or the model does
            not return finite logits.
        OutOfMemoryError: If memory runs out; it says what to reduce.

    Warns:
        KdigaWarning: If a cheap check finds that the accuracies are worthless: the model ignores its input, is random,
            depends on the rest of the batch, or returns probabilities. With ``checks``, also
            for each check that failed. The result contains the findings, too.

    >>> import torch
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    >>> report = evaluate(model, [(torch.rand(5, 1, 2, 2), torch.zeros(5).long())], eps="8/255", attacks=["fgsm"])
    >>> report.examples, 0 <= report["fgsm"] <= report["clean"] <= 1
    (5, True)
    """
    settings = AttackSettings(_threat(threat, norm, eps), seed, batch_size, ResultCache(folder))
    images, data = given_images(batches, examples)
    pixels = to_pixels(images.images)
    with progress_of(progress, "evaluate") as on_progress:
        settings = replace(settings, progress=on_progress)
        found = measure(model, [(pixels, images.labels)], settings, attacks, version=version)
        about = describe_model(model, name, images=pixels)
        if corruptions:
            found = replace(found, corruptions=corruption_accuracy(model, [(pixels, images.labels)], settings))
        findings = list(found.findings)
        if checks or teacher is not None or transfer_from:
            names = [finding.name for finding in findings]
            came_training = any(module.training for module in model.modules())
            with evaluating(model):
                ran = check_masking(
                    model,
                    pixels,
                    images.labels,
                    threat=settings.threat,
                    seed=seed,
                    teacher=teacher,
                    transfer_from=transfer_from,
                    result_cache=settings.result_cache,
                    fingerprint=about["fingerprint"],
                    on_progress=on_progress,
                )
            if came_training:
                ran = [CAME_IN_TRAIN_MODE if one.name == CAME_IN_TRAIN_MODE.name else one for one in ran]
            findings += [finding for finding in ran if finding.name not in names]
    warn_of(findings)
    options = {"attacks": list(found.results), "examples": found.examples, "seed": seed, "version": version}
    threat = f"{settings.threat.norm} {settings.threat.eps:g}"
    about |= {"data": data, "data_fingerprint": fingerprint_of_images(images), "version": version}
    about["command"] = call_of("evaluate", about["model"], data, threat=threat, **options)
    return replace(found, findings=findings, about=about)


def given_images(batches: GivenData, examples: int | None) -> tuple[ImageSet, str]:
    """Return the first test images of what a user gives, and the name of the data set."""
    if not isinstance(batches, DataSet | ImageSet | FileSet):
        return ImageSet.of(*gathered(batches, examples)), UNNAMED
    if examples is not None and examples < 1:
        raise InputError(f"examples was {examples!r}; it must be at least 1.")
    return (
        (first_images(batches.test, examples), batches.name)
        if isinstance(batches, DataSet)
        else (first_images(batches, examples), UNNAMED)
    )


def warn_of(findings: Sequence[Finding]) -> None:
    """Warn of each finding that makes accuracies worthless."""
    for finding in findings:
        if finding.verdict == "failed" or (finding.name == "logits" and finding.verdict == "warning"):
            warnings.warn(f"{finding.name}: {finding.message}", KdigaWarning, stacklevel=3)


def _threat(threat: ThreatModel | str | None, norm: str | None, eps: float | str | None) -> ThreatModel:
    if threat is None:
        default = ThreatModel()
        return ThreatModel.parse(norm or default.norm, default.eps if eps is None else eps)
    if norm is not None or eps is not None:
        raise InputError("threat was given together with norm or eps; give threat, or the two others.")
    return ThreatModel.of(threat)
