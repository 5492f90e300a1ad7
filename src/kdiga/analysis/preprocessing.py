"""Is a model given the pixels it was trained on? Held against the commonest other preprocessings, image by image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import torch
from torch import Tensor, nn

from kdiga.evaluation.masking.finding import Finding, Verdict
from kdiga.model_state import evaluating
from kdiga.models import Classifier
from kdiga.models.normalization import NORMALIZATIONS, Normalization, Normalize
from kdiga.statistics import clopper_pearson

SIGNIFICANCE = 0.01  # of all candidates together
LEAST_GAIN = 0.05
BATCH_SIZE = 250
MIN_SIZE, MAX_SIZE = 8, 256  # at which other sizes are tried

Preprocessed = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Alternative:
    """What another way to read pixels or classes does to accuracy.

    Args:
        name: of the way, in words.
        given: accuracy as the model is, in [0, 1].
        other: accuracy the other way, on the same images.
        p_value: of the exact one-sided sign test over the images on which only one of the two is right.
    """

    name: str
    given: float
    other: float
    p_value: float

    @classmethod
    def of(cls, name: str, given: Tensor, other: Tensor) -> Alternative:
        """Compare two ways example by example; bool (example,) says where each is right."""
        from scipy.stats import binomtest

        wins, losses = int((other & ~given).sum()), int((given & ~other).sum())
        p_value = 1.0 if wins + losses == 0 else float(binomtest(wins, wins + losses, alternative="greater").pvalue)
        return cls(name, float(given.double().mean()), float(other.double().mean()), p_value)

    def is_better(self, tries: int) -> bool:
        """Return whether the other way is better beyond chance, by at least 5 points.

        Args:
            tries: how many ways were tried; the significance is shared by them (Bonferroni).
        """
        return self.p_value < SIGNIFICANCE / tries and self.other - self.given >= LEAST_GAIN


def preprocessing_finding(model: nn.Module, images: Tensor, labels: Tensor) -> Finding:
    """Return whether the model is far better with other preprocessing: normalised twice, wrongly or not at all.

    Args:
        model: in [0, 1] in front; a :class:`kdiga.models.Classifier` is also tried without its own normalisation.
        images: float (batch, channel, height, width), pixels in [0, 1], on the model's device.
        labels: int64 (batch,).
    """
    with evaluating(model):
        given = _predictions(model, images) == labels
        found = [
            Alternative.of(name, given, _predictions(preprocessed, images) == labels)
            for name, preprocessed in candidates(model, images).items()
        ]
    best = max(found, key=lambda alternative: alternative.other)
    evidence = {
        "given": best.given,
        "best_other": best.name,
        "other": best.other,
        "p_value": best.p_value,
        "tried": {alternative.name: alternative.other for alternative in found},
    }
    if best.is_better(len(found)):
        message = (
            f"right on {best.given:.1%} of the images as it is and on {best.other:.1%} with {best.name}: its "
            "preprocessing is wrong. Load the weights with the normalization they were trained with."
        )
        return Finding("preprocessing", "failed", message, evidence)
    message = f"none of {len(found)} other preprocessings is better beyond chance by 5 points."
    return Finding("preprocessing", "passed", message, evidence)


def candidates(model: nn.Module, images: Tensor) -> dict[str, Preprocessed]:
    """Return the other preprocessings by name, each a function from pixels in [0, 1] to logits.

    Those of a :class:`kdiga.models.Classifier` come after its images were resized to its network's size and channels.
    """
    if isinstance(model, Classifier) and not model.fit.changes_nothing:
        fit = model.fit
        own = _candidates(_Inside(model), model, fit(images[:1]).shape[1], _moments(fit(images)), images.device)
        return {name: _before(tried, fit) for name, tried in own.items()}
    return _candidates(model, model, images.shape[1], _moments(images), images.device)


def _candidates(
    inside: Preprocessed, model: nn.Module, channels: int, moments: Normalization, device: torch.device
) -> dict[str, Preprocessed]:
    layers = _layers(channels, moments, device)
    own: dict[str, Preprocessed] = {}
    if isinstance(model, Classifier) and not _is_identity(model.normalize):
        bare = _Bare(model)
        own["its own normalisation left out"] = bare
        own |= {f"{name} normalisation for its own": _before(bare, layer) for name, layer in layers.items()}
    else:
        own |= {f"{name} normalisation in front": _before(inside, layer) for name, layer in layers.items()}
    own |= {f"{name} normalisation undone in front": _before(inside, _Undone(layer)) for name, layer in layers.items()}
    own["pixels from 0 to 255"] = lambda pixels: inside(255 * pixels)
    if channels > 1:
        own["channels in reverse order"] = lambda pixels: inside(pixels.flip(1))
    return own


class _Bare(nn.Module):
    """A classifier without its resize and its normalisation."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        logits = self.model.network(pixels)
        return logits[:, self.model.picked] if self.model.spec.classes else logits


class _Inside(_Bare):
    """A classifier without its resize."""

    def forward(self, pixels: Tensor) -> Tensor:
        return super().forward(self.model.normalize(pixels))


class _Undone(nn.Module):
    """The inverse of a normalisation."""

    def __init__(self, layer: Normalize) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, pixels: Tensor) -> Tensor:
        return pixels * self.layer.std + self.layer.mean


def _moments(images: Tensor) -> Normalization:
    return Normalization(tuple(images.mean((0, 2, 3)).tolist()), tuple(images.std((0, 2, 3)).clamp_min(1e-3).tolist()))


def _layers(channels: int, moments: Normalization, device: torch.device) -> dict[str, Normalize]:
    named = {name: value for name, value in NORMALIZATIONS.items() if len(value.mean) in (1, channels)}
    named = {name: value for name, value in named.items() if value != NORMALIZATIONS["none"]} | {"the data's": moments}
    return {name: Normalize(value, channels).to(device) for name, value in named.items()}


def _is_identity(layer: Normalize) -> bool:
    return bool((layer.mean == 0).all()) and bool((layer.std == 1).all())


def _before(model: Callable[[Tensor], Tensor], layer: Callable[[Tensor], Tensor]) -> Preprocessed:
    return lambda pixels: model(layer(pixels))


def size_finding(model: Classifier, images: Tensor, labels: Tensor) -> Finding:
    """Return whether the network is far better at half or twice the size that it is given now.

    Args:
        model: with a network that takes images of several sizes; of another nothing is to be found out.
        images: float (batch, channel, height, width), pixels in [0, 1], on the model's device.
        labels: int64 (batch,).
    """
    size = model.spec.image_size
    with evaluating(model):
        given = _predictions(model, images) == labels
        found = list[Alternative]()
        for other in (size // 2, 2 * size):
            resized = _at_size(model, other)
            predictions = None if resized is None else _tried(resized, images)
            if predictions is not None:
                found.append(Alternative.of(f"{other} pixels", given, predictions == labels))
    if not found:
        return Finding("input-size", "skipped", f"its network takes images of {size} pixels only.", {"size": size})
    best = max(found, key=lambda alternative: alternative.other)
    evidence = {
        "size": size,
        "given": best.given,
        "best_other": best.name,
        "other": best.other,
        "p_value": best.p_value,
    }
    if best.is_better(len(found)):
        message = (
            f"right on {best.given:.1%} of the images at {size} pixels and on {best.other:.1%} at {best.name}: it was "
            f"trained at another size. Set image_size to its own, for example {best.name.split()[0]}; images are "
            "resized in front."
        )
        return Finding("input-size", "failed", message, evidence)
    tried = " and ".join(alternative.name.split()[0] for alternative in found)
    message = f"not better beyond chance by 5 points at {tried} pixels than at {size}."
    return Finding("input-size", "passed", message, evidence)


def _at_size(model: Classifier, size: int) -> Classifier | None:
    if not MIN_SIZE <= size <= max(MAX_SIZE, model.spec.image_size):
        return None
    channels, given, _ = model.spec.takes
    spec = replace(model.spec, image_size=size, input_size=given, input_channels=channels)
    other = Classifier(spec, model.network)
    other.normalize = model.normalize
    return other.to(model.normalize.mean.device).train(model.training)


def _tried(model: Preprocessed, images: Tensor) -> Tensor | None:
    try:
        return _predictions(model, images)
    except (RuntimeError, AssertionError, ValueError):  # a linear layer after flattening, a fixed grid of patches
        return None


@torch.no_grad()
def _predictions(model: Preprocessed, images: Tensor) -> Tensor:
    return torch.cat([model(part).argmax(1) for part in images.split(BATCH_SIZE)])


def clean_finding(clean: Sequence[bool], num_classes: int) -> Finding:
    """Return whether the model is right more often than guessing is, beyond chance.

    Args:
        clean: which images it is right on.
        num_classes: that it tells apart.
    """
    low, high = clopper_pearson(sum(clean), len(clean))
    chance = 1 / num_classes
    message = f"right on {fmean(clean):.1%} [{low:.1%}, {high:.1%}] of the images, guessing on {chance:.1%}"
    verdict: Verdict = "passed" if low > chance else "failed"
    message += "." if verdict == "passed" else "; not above chance, so there is nothing to learn from it."
    return Finding("clean-accuracy", verdict, message, {"clean": fmean(clean), "interval_95": [low, high]})


def class_order_finding(predictions: Tensor, labels: Tensor, num_classes: int) -> Finding:
    """Return whether the model's classes are the data's in another order.

    The order that agrees best is sought on every other image of each class and tested on the rest: sought and tested
    on the same images, some order would always fit better.

    Args:
        predictions: int64 (example,).
        labels: int64 (example,).
        num_classes: of both.
    """
    first = _every_other(labels, num_classes)
    order = best_order(predictions[first], labels[first], num_classes)
    rest, answers = predictions[~first], labels[~first]
    moved = {str(predicted): label for predicted, label in enumerate(order.tolist()) if predicted != label}
    if not moved or not len(rest):
        return Finding("class-order", "passed", "no other order of the classes fits better.", {"moved": {}})
    found = Alternative.of("another order", rest == answers, order.to(rest.device)[rest] == answers)
    evidence = {"given": found.given, "other": found.other, "p_value": found.p_value, "moved": moved}
    if not found.is_better(1):
        message = "no other order of the classes fits better beyond chance by 5 points."
        return Finding("class-order", "passed", message, evidence)
    told = ", ".join(f"{predicted} is {label}" for predicted, label in list(moved.items())[:10])
    message = (
        f"right on {found.given:.1%} of the images as it is and on {found.other:.1%} with its classes in another order "
        f"({told}{', ...' if len(moved) > 10 else ''}): it was trained with other labels. Reorder its last layer."
    )
    return Finding("class-order", "failed", message, evidence)


def _every_other(labels: Tensor, num_classes: int) -> Tensor:
    """Return bool (example,): the first, third, ... of each class, whatever order the classes come in."""
    met = nn.functional.one_hot(labels, num_classes).cumsum(0).gather(1, labels[:, None])[:, 0]
    return met % 2 == 1


def best_order(predictions: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return the permutation of classes that agrees with most labels, int64 (num_classes,): predicted to label.

    Where several agree with as many, the one that moves fewest classes (Kuhn, 1955, on the confusion matrix).
    """
    from scipy.optimize import linear_sum_assignment

    cells = predictions.cpu() * num_classes + labels.cpu()
    confusion = torch.bincount(cells, minlength=num_classes**2).view(num_classes, num_classes).double()
    stay = torch.eye(num_classes, dtype=torch.float64) / (2 * num_classes)
    _, order = linear_sum_assignment((confusion + stay).numpy(), maximize=True)
    return torch.from_numpy(order).long()
