"""What a model is and whether it fits its data, before it is trained or measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from kdiga.analysis.preprocessing import (
    LEAST_GAIN,
    class_order_finding,
    clean_finding,
    preprocessing_finding,
    size_finding,
)
from kdiga.data import Images, MixedSet
from kdiga.errors import InputError, check_at_least, check_known
from kdiga.evaluation.masking.finding import Finding
from kdiga.model_state import evaluating, seeded
from kdiga.models import Classifier
from kdiga.models.description import Description
from kdiga.models.foreign import MATCHES
from kdiga.recipes.schema import Recipe
from kdiga.statistics import percent
from kdiga.training.runtime import device_by_name
from kdiga.workflows.loaded_model import judged, load_test_set, recipe_of
from kdiga.workflows.prepare import RunModels, build_model, check_fits, load_model_without_data
from kdiga.workflows.requests import InspectRequest, JudgeRequest

EXAMPLES = 128
SAMPLE_SEED = 0  # which images are looked at


@dataclass(frozen=True)
class Inspection:
    """What was found about a model."""

    description: Description
    examples: int = 0  # how many images it was tried on; 0 where it was not tried
    # One a check: clean accuracy, preprocessing, input size, class order.
    findings: Sequence[Finding] = field(default=())

    @property
    def failed(self) -> list[Finding]:
        """The checks that failed."""
        return [finding for finding in self.findings if finding.verdict == "failed"]

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        findings = [finding.to_dict() for finding in self.findings]
        return self.description.to_dict() | {"examples": self.examples, "findings": findings}

    def lines(self) -> list[str]:
        """Return it as short lines of "what: value"."""
        findings = [
            f"{finding.name}{'' if finding.verdict == 'passed' else f' {finding.verdict}'}: {finding.message}"
            for finding in self.findings
        ]
        return [*self.description.lines(), *findings]


def inspect_model(
    model: Classifier, data: Images | None = None, *, examples: int = EXAMPLES, device: str = "auto"
) -> Inspection:
    """Describe a model, and try it on a sample of images, which is the same for every model.

    Tried are: its clean accuracy; whether other preprocessing, half or twice the input size or another order of the
    classes makes it better by 5 points, beyond chance. A model with fresh weights, or a fresh last layer, is described
    only, and so is any without data. It stays as it is, on the device.
    """
    check_at_least(1, examples=examples)
    description = Description(model)
    if data is None or not model.origin.trained or model.origin.new_head:
        return Inspection(description)
    place = device_by_name(device)
    images, labels = (part.to(place) for part in sample(data, examples))
    model.to(place)
    with evaluating(model), torch.no_grad():
        predictions = torch.cat([model(part).argmax(1) for part in images.split(64)])
    right = predictions == labels
    findings = [clean_finding(right.tolist(), data.num_classes)]
    if 1 - float(right.double().mean()) < LEAST_GAIN:
        message = f"ok ({percent(float(right.double().mean()))} correct; no alternative can be 5 points better)."
        names = ("preprocessing", "input-size", "class-order")
        return Inspection(
            description, len(labels), [*findings, *(Finding(one, "passed", message, {}) for one in names)]
        )
    findings += [
        preprocessing_finding(model, images, labels),
        size_finding(model, images, labels),
        class_order_finding(predictions, labels, data.num_classes),
    ]
    return Inspection(description, len(labels), findings)


def sample(data: Images, examples: int) -> tuple[Tensor, Tensor]:
    """Return images, float in [0, 1], and labels: a random choice that is the same at every call."""
    if isinstance(data, MixedSet):
        data = data.original
    with seeded(SAMPLE_SEED, len(data)):
        rows = torch.randperm(len(data))[:examples].sort().values
    batches = list(data.take(rows).batches())
    return torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])


def inspect_named(request: InspectRequest) -> Inspection:
    """Inspect a model by its name, on test images of its data set if one is known.

    A source's name alone means its pretrained weights. Without a data set, and without a run whose recipe names one,
    the model is described only.
    """
    check_known("matched", request.matched, MATCHES)
    config = judged(
        request.model,
        request,
        architecture=request.architecture,
        matched=request.matched,
        num_classes=request.num_classes,
        image_size=request.image_size,
        classes=_classes(request.classes),
    )
    if request.data is None and recipe_of(request.model).get("data") is None:
        return inspect_model(load_model_without_data(config))
    test_set = load_test_set([request.model], JudgeRequest(data=request.data, root=request.root))
    model = build_model(config, test_set.images)
    check_fits("model", model, test_set.images)
    return inspect_model(model, test_set.images, examples=request.examples, device=request.device)


def _classes(given: str | None) -> Literal["imagenet"] | list[int] | None:
    if given is None or given == "imagenet":
        return given
    try:
        return [int(one) for one in given.split(",")]
    except ValueError:
        raise InputError(f"classes was {given!r}; give imagenet, or indices such as 0,217,482.") from None


def inspect_recipe(recipe: Recipe, models: RunModels, data: Images) -> dict[str, Inspection]:
    """Inspect the models of a recipe, by role, on a sample of the training images."""
    return {
        role.replace("_", " "): inspect_model(model, data, device=recipe.training.device)
        for role, model in models._asdict().items()
        if model is not None
    }


def check_teachers(recipe: Recipe, models: RunModels, found: dict[str, Inspection]) -> None:
    """Check that the teachers passed; a teacher that is trained along need not pass."""
    for role in ("teacher", "second_teacher"):
        model, inspection = getattr(models, role), found.get(role.replace("_", " "))
        if model is None or inspection is None or (role == "teacher" and recipe.method.needs.trains_teacher):
            continue
        failed = [f"{finding.name}: {finding.message}" for finding in inspection.failed]
        if model.origin.new_head:
            failed = [
                "its last layer is new and untrained, so it has nothing to teach; give classes, to keep the old one"
            ]
        if failed:
            raise InputError(
                f"the {role.replace('_', ' ')} {model.spec.name} failed a check. {' '.join(failed)} To train all the "
                "same, add --despite-findings."
            )
