"""Checks that a model gets the pixels, image size and class order of its training, against common alternatives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import binomtest
from torch import Tensor, nn

from kdiga.evaluation.masking.finding import Finding, Verdict
from kdiga.model_output import logits_at
from kdiga.model_state import evaluating
from kdiga.models import Classifier
from kdiga.models.input_layers import NORMALIZATIONS, Normalization, Normalize
from kdiga.statistics import at_most, clopper_pearson, percent

SIGNIFICANCE = 0.01  # p-value for all alternatives together
LEAST_GAIN = 0.05
BATCH_SIZE = 250
MIN_SIZE, MAX_SIZE = 8, 256  # range of the other image sizes

Preprocessed = Callable[[Tensor], Tensor]
"""Maps pixels in [0, 1] to logits."""


@dataclass(frozen=True)
class Alternative:
    """Accuracy with another preprocessing or class order, on the same images."""

    name: str  # name of the alternative, in words
    given: float  # accuracy of the model as it is, in [0, 1]
    other: float  # accuracy with the alternative
    p_value: float  # P-value of the exact one-sided sign test over the images on which only one of the two is right

    @classmethod
    def compare(cls, name: str, given: Tensor, other: Tensor) -> Alternative:
        """Compare two ways from the correctness of each example, bool (example,)."""
        wins, losses = int((other & ~given).sum()), int((given & ~other).sum())
        p_value = 1.0 if wins + losses == 0 else float(binomtest(wins, wins + losses, alternative="greater").pvalue)
        return cls(name, float(given.double().mean()), float(other.double().mean()), p_value)

    def is_better(self, tries: int) -> bool:
        """Return whether the alternative is better beyond chance, by at least 5 points.

        The alternatives, ``tries`` in number, share the significance level (Bonferroni).
        """
        return self.p_value < SIGNIFICANCE / tries and at_most(LEAST_GAIN, self.other - self.given)

    def evidence(self) -> dict[str, Any]:
        """Return the comparison as the evidence of a finding."""
        return {"given": self.given, "best_other": self.name, "other": self.other, "p_value": self.p_value}


@torch.no_grad()
def logits_in_batches(model: Preprocessed, images: Tensor) -> Tensor:
    """Return the logits, float (example, num_classes)."""
    return torch.cat([logits_at(model, part) for part in images.split(BATCH_SIZE)])


def predictions_of(model: Preprocessed, images: Tensor) -> Tensor:
    """Return the predicted classes, int64 (example,)."""
    return logits_in_batches(model, images).argmax(1)


def preprocessing_finding(model: nn.Module, images: Tensor, labels: Tensor) -> Finding:
    """Return whether the model is much better with other preprocessing: a double, wrong or missing normalisation.

    A :class:`kdiga.models.Classifier` is also tried without its normalisation. Images have pixels in [0, 1] and are on
    the device of the model, with int64 labels.
    """
    with evaluating(model):
        given = predictions_of(model, images) == labels
        found = [
            Alternative.compare(name, given, predictions_of(preprocessed, images) == labels)
            for name, preprocessed in candidates(model, images).items()
        ]
    best = max(found, key=lambda alternative: alternative.other)
    evidence = best.evidence() | {"tried": {alternative.name: alternative.other for alternative in found}}
    if not best.is_better(len(found)):
        message = (
            f"right on {percent(best.given)} of the images as it is; the best of {len(found)} other preprocessings, "
            f"{best.name}, gives {percent(best.other)}"
        )
        if best.p_value >= SIGNIFICANCE / len(found):
            return Finding("preprocessing", "passed", f"{message}.", evidence)
        message += ", which is significantly better: the model may have been trained with it."
        return Finding("preprocessing", "warning", message, evidence)
    message = (
        f"right on {percent(best.given)} of the images as it is and on {percent(best.other)} with {best.name}: its "
        "preprocessing is wrong. Load the weights with the normalization they were trained with."
    )
    return Finding("preprocessing", "failed", message, evidence)


def candidates(model: nn.Module, images: Tensor) -> dict[str, Preprocessed]:
    """Return the model with each other preprocessing, by name.

    A :class:`kdiga.models.Classifier` first resizes the images to the size and channels of its network.
    """
    if not isinstance(model, Classifier):
        return _variants(partial(logits_at, model), None, images)
    bare, normalize, fit = _without_preprocessing(model), model.normalize, model.fit
    resized = fit(images)

    def inside(pixels: Tensor) -> Tensor:
        return bare(normalize(pixels))

    identity = bool((normalize.mean == 0).all()) and bool((normalize.std == 1).all())
    variants = _variants(inside, None if identity else bare, resized)
    return {name: _after(variant, fit) for name, variant in variants.items()}


def _without_preprocessing(model: Classifier) -> Preprocessed:
    """Return a classifier without its resize and its normalisation."""

    def bare(pixels: Tensor) -> Tensor:
        logits = logits_at(model.network, pixels)
        return logits[:, model.picked] if model.spec.classes else logits

    return bare


def _variants(model: Preprocessed, bare: Preprocessed | None, images: Tensor) -> dict[str, Preprocessed]:
    """Return the variants of a model, and of the model without its normalisation if it has one."""
    layers = _normalizations(images)
    variants: dict[str, Preprocessed] = {}
    if bare is not None:
        variants["its own normalisation left out"] = bare
        variants |= {f"{name} normalisation for its own": _after(bare, layer) for name, layer in layers.items()}
    else:
        variants |= {f"{name} normalisation in front": _after(model, layer) for name, layer in layers.items()}
    for name, layer in layers.items():
        variants[f"{name} normalisation undone in front"] = _after(model, _inverse(layer))
    variants["pixels from 0 to 255"] = lambda pixels: model(255 * pixels)
    if images.shape[1] > 1:
        variants["channels in reverse order"] = lambda pixels: model(pixels.flip(1))
    return variants


def _normalizations(images: Tensor) -> dict[str, Normalize]:
    channels = images.shape[1]
    mean, std = images.mean((0, 2, 3)), images.std((0, 2, 3)).clamp_min(1e-3)
    named = {
        name: value
        for name, value in NORMALIZATIONS.items()
        if len(value.mean) in (1, channels) and value != NORMALIZATIONS["none"]
    }
    named["the data's"] = Normalization(tuple(mean.tolist()), tuple(std.tolist()))
    return {name: Normalize(value, channels).to(images.device) for name, value in named.items()}


def _inverse(layer: Normalize) -> Preprocessed:
    return lambda pixels: pixels * layer.std + layer.mean


def _after(model: Preprocessed, layer: Preprocessed) -> Preprocessed:
    return lambda pixels: model(layer(pixels))


def size_finding(model: Classifier, images: Tensor, labels: Tensor) -> Finding:
    """Return whether the network is much better at half or twice its present image size.

    The check is skipped if the network takes one size only. The arguments are as for :func:`preprocessing_finding`.
    """
    size = model.spec.image_size
    with evaluating(model):
        given = predictions_of(model, images) == labels
        found = list[Alternative]()
        for other in (size // 2, 2 * size):
            predictions = _predictions_at(model, other, images)
            if predictions is not None:
                found.append(Alternative.compare(f"{other} pixels", given, predictions == labels))
    if not found:
        return Finding("input-size", "skipped", f"its network takes images of {size} pixels only.", {"size": size})
    best = max(found, key=lambda alternative: alternative.other)
    evidence = {"size": size} | best.evidence()
    if best.is_better(len(found)):
        message = (
            f"right on {percent(best.given)} of the images at {size} pixels and on {percent(best.other)} at "
            f"{best.name}: it was trained at another size. Set image_size to its own, for example "
            f"{best.name.split()[0]}; images are resized in front."
        )
        return Finding("input-size", "failed", message, evidence)
    tried = " and ".join(alternative.name.split()[0] for alternative in found)
    message = f"not significantly better by 5 points at {tried} pixels than at {size}."
    return Finding("input-size", "passed", message, evidence)


def _predictions_at(model: Classifier, size: int, images: Tensor) -> Tensor | None:
    """Return the predictions at another image size; None if the network does not take it."""
    if not MIN_SIZE <= size <= max(MAX_SIZE, model.spec.image_size):
        return None
    channels, given, _ = model.spec.takes
    spec = replace(model.spec, image_size=size, input_size=given, input_channels=channels)
    other = Classifier(spec, model.network)
    other.normalize = model.normalize
    other.to(model.normalize.mean.device).train(model.training)
    try:
        return predictions_of(other, images)
    except (RuntimeError, AssertionError, ValueError):  # a linear layer after flattening, a fixed grid of patches
        return None


def clean_finding(clean: Sequence[bool], num_classes: int) -> Finding:
    """Return whether the clean accuracy is above guessing, from the correctness of each image."""
    low, high = clopper_pearson(sum(clean), len(clean))
    chance = 1 / num_classes
    right, guessing = percent(fmean(clean)), percent(chance)
    message = f"right on {right} [{percent(low)}, {percent(high)}] of the images, guessing on {guessing}"
    verdict: Verdict = "passed" if low > chance else "failed"
    message += "." if verdict == "passed" else "; not above chance, so there is nothing to learn from it."
    return Finding("clean-accuracy", verdict, message, {"clean": fmean(clean), "interval_95": [low, high]})


def class_order_finding(predictions: Tensor, labels: Tensor, num_classes: int) -> Finding:
    """Return whether the classes of the model are those of the data in another order.

    Every other image of each class decides the best order, and the rest tests it: tested on the same images, some order
    would always fit better. Predictions and labels are int64 (example,).
    """
    first = _every_other(labels, num_classes)
    order = best_order(predictions[first], labels[first], num_classes)
    rest, answers = predictions[~first], labels[~first]
    moved = {str(predicted): label for predicted, label in enumerate(order.tolist()) if predicted != label}
    if not moved or not len(rest):
        return Finding("class-order", "passed", "no other order of the classes fits better.", {"moved": {}})
    found = Alternative.compare("another order", rest == answers, order.to(rest.device)[rest] == answers)
    evidence = {"given": found.given, "other": found.other, "p_value": found.p_value, "moved": moved}
    if not found.is_better(1):
        message = "no other order of the classes fits significantly better by 5 points."
        return Finding("class-order", "passed", message, evidence)
    shown = ", ".join(f"{predicted} is {label}" for predicted, label in list(moved.items())[:10])
    message = (
        f"right on {percent(found.given)} of the images as it is and on {percent(found.other)} with its classes in "
        f"another order ({shown}{', ...' if len(moved) > 10 else ''}): it was trained with other labels. Reorder its "
        "last layer."
    )
    return Finding("class-order", "failed", message, evidence)


def _every_other(labels: Tensor, num_classes: int) -> Tensor:
    """Return whether each example is the first, third, ... of its class, bool (example,)."""
    count = nn.functional.one_hot(labels, num_classes).cumsum(0).gather(1, labels[:, None])[:, 0]
    return count % 2 == 1


def best_order(predictions: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return the permutation from predicted classes to labels that agrees most often, int64 (num_classes,).

    Of several such permutations it is the one that moves the fewest classes (Kuhn, 1955, on the confusion matrix).
    """
    cells = predictions.cpu() * num_classes + labels.cpu()
    confusion = torch.bincount(cells, minlength=num_classes**2).view(num_classes, num_classes).double()
    stay = torch.eye(num_classes, dtype=torch.float64) / (2 * num_classes)
    _, order = linear_sum_assignment((confusion + stay).numpy(), maximize=True)
    return torch.from_numpy(order).long()
