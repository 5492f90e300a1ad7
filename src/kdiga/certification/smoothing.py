"""Randomized smoothing (Cohen, Rosenfeld and Kolter, 2019, arXiv 1902.02918): an L2 radius, stated with a confidence.

The smoothed classifier answers with the class that the model gives most often under Gaussian noise on the pixels. If
that class has probability ``p > 1/2``, the smoothed classifier gives the same answer to every image closer than
``sigma * Phi^-1(p)`` in L2 (theorem 1). ``p`` is bounded from below by counting, so each radius is wrong with
probability at most ``alpha``. It speaks of the smoothed classifier: the model without noise has no such radius.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from scipy.stats import beta, norm
from torch import Tensor, nn

from kdiga.certification.certificate import as_numbers, certified_accuracy, curve_of
from kdiga.certification.class_scores import class_scores
from kdiga.errors import InputError
from kdiga.model_state import device_of, evaluating, frozen_parameters, mix_seed
from kdiga.runs.fingerprints import fingerprint_of_model, fingerprint_of_tensors
from kdiga.runs.work_units import OnProgress, ResultCache, WorkUnit, run_work_units

PORTION = 10  # examples that are kept together
DRAW = 50  # noises of one draw: a fixed number, so that a stream gives the same ones for every batch size
SELECTION, ESTIMATION = 0, 1


@dataclass(frozen=True)
class Noise:
    """How a model is smoothed, and how surely.

    Args:
        sigma: standard deviation of the noise, in pixels in [0, 1], above 0. Noisy pixels are not clipped: the theorem
            needs the noise as it is.
        samples: that bound the probability of the selected class, at least 1.
        selection_samples: that select it, at least 1.
        alpha: probability of a wrong radius, an example, in (0, 1).
        seed: of the noise; example i draws from a stream of its own.

    Raises:
        InputError: for values out of range.
    """

    sigma: float = 0.25
    samples: int = 1000
    selection_samples: int = 100
    alpha: float = 0.001
    seed: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.sigma) and self.sigma > 0):
            raise InputError(f"sigma was {self.sigma!r}; it must be above 0, in pixels in [0, 1], for example 0.25.")
        if self.samples < 1 or self.selection_samples < 1:
            raise InputError(
                f"smoothing was asked for {self.samples} samples after {self.selection_samples} to select a class; "
                "both must be at least 1, and 1000 after 100 are usual."
            )
        if not 0 < self.alpha < 1:
            raise InputError(f"alpha was {self.alpha!r}; it must be above 0 and below 1, for example 0.001.")
        if self.largest_radius <= 0:
            raise InputError(
                f"{self.samples} samples cannot show at confidence 1 - {self.alpha:g} that a class has more than half "
                f"of the noise; give at least {math.floor(math.log2(1 / self.alpha)) + 1} samples, or a larger alpha."
            )

    @property
    def largest_radius(self) -> float:
        """The radius of an example whose samples all agree; no example has a larger one."""
        return radius_of(self.samples, self.samples, self.sigma, self.alpha)

    def key(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "sigma": self.sigma,
            "samples": self.samples,
            "selection_samples": self.selection_samples,
            "alpha": self.alpha,
            "seed": self.seed,
        }


@dataclass(frozen=True)
class Smoothed:
    """Certified L2 radii of a smoothed model.

    Args:
        noise: how it was smoothed.
        radius: one an example; 0.0 where its answer is wrong or withheld.
        prediction: its answer, None where it abstains.
        abstained: examples without an answer.
        wrong: examples with a wrong one.
    """

    noise: Noise
    radius: Sequence[float]
    prediction: Sequence[int | None]
    abstained: int
    wrong: int

    @property
    def correct(self) -> tuple[bool, ...]:
        """For each example, whether the smoothed model answers, and rightly."""
        return tuple(radius > 0.0 for radius in self.radius)

    def accuracy(self, radius: float) -> float:
        """Return the share of all examples answered rightly with a radius of at least ``radius``, in L2."""
        return certified_accuracy(self.radius, radius)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        settings = {name: value for name, value in self.noise.key().items() if name != "seed"}
        return {
            "norm": "l2",
            **settings,
            "largest_radius": self.noise.largest_radius,
            "radius": as_numbers(self.radius),
            "prediction": list(self.prediction),
            "abstained": self.abstained,
            "wrong": self.wrong,
            "curve": curve_of(self.radius, self.noise.largest_radius),
        }


def lower_bound(count: int, samples: int, alpha: float) -> float:
    """Return the one-sided Clopper-Pearson bound: a probability of which ``count`` of ``samples`` is too lucky.

    >>> round(lower_bound(1000, 1000, 0.001), 5)
    0.99312
    """
    return 0.0 if count == 0 else float(beta.ppf(alpha, count, samples - count + 1))


def radius_of(count: int, samples: int, sigma: float, alpha: float) -> float:
    """Return ``sigma * Phi^-1(lower bound)``, 0.0 where the bound is not above one half."""
    probability = lower_bound(count, samples, alpha)
    return sigma * float(norm.ppf(probability)) if probability > 0.5 else 0.0


def smooth(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    sigma: float = 0.25,
    samples: int = 1000,
    selection_samples: int = 100,
    alpha: float = 0.001,
    seed: int = 0,
    batch_size: int = 500,
    folder: Path | None = None,
    progress: OnProgress | None = None,
) -> Smoothed:
    """Certify each example of the smoothed model: algorithm CERTIFY of Cohen et al. (2019).

    Args:
        model: maps images to logits (batch, num_classes), where its parameters are. It is run in eval mode and left
            as found.
        images: float (example, channel, height, width), pixels in [0, 1].
        labels: int (example,).
        sigma: standard deviation of the noise, in pixels in [0, 1].
        samples: that bound the probability of the selected class.
        selection_samples: that select it, from a stream of their own.
        alpha: probability of a wrong radius, for each example by itself.
        seed: of the noise.
        batch_size: noisy images that go through the network together. No count depends on it.
        folder: where finished portions are kept and shared between processes; None keeps none.
        progress: called with "smoothing", examples done and examples to do.

    Raises:
        InputError: for settings out of range, and as :func:`kdiga.certification.class_scores.class_scores`.
    """
    noise = Noise(sigma, samples, selection_samples, alpha, seed)
    if batch_size < 1:
        raise InputError(f"batch_size was {batch_size!r}; it must be at least 1.")
    device = device_of(model, images.device)
    images, labels = images.to(device), labels.to(device)
    with evaluating(model), frozen_parameters(model):
        num_classes = class_scores(model, images, labels).num_classes
        fingerprint = fingerprint_of_model(model) if folder is not None else ""
        work_units: list[WorkUnit] = []
        for start in range(0, len(images), PORTION):
            part, answers = images[start : start + PORTION], labels[start : start + PORTION]
            key = {
                "certification": "smoothing",
                "model": fingerprint,
                "start": start,
                "noise": noise.key(),
                "examples": fingerprint_of_tensors(part, answers),
            }
            work = partial(_work, model, part, num_classes, start, noise, batch_size)
            work_units.append(WorkUnit("smoothing", key, len(part), work))
        outcomes = run_work_units(work_units, ResultCache(folder), progress)
    return _radii([pair for chunk in outcomes for pair in chunk], labels.tolist(), noise)


def _work(
    model: nn.Module, images: Tensor, num_classes: int, start: int, noise: Noise, batch_size: int
) -> list[list[int]]:
    """Return for each example the selected class and how often it was counted again."""
    shared = partial(_count, model, images, num_classes, start, noise, batch_size)
    selected = shared(SELECTION, noise.selection_samples).argmax(1)
    counts = shared(ESTIMATION, noise.samples)
    return [[int(chosen), int(row[chosen])] for chosen, row in zip(selected, counts, strict=True)]


@torch.no_grad()
def _count(
    model: nn.Module,
    images: Tensor,
    num_classes: int,
    start: int,
    noise: Noise,
    batch_size: int,
    stream: int,
    samples: int,
) -> Tensor:
    """Return int64 (example, num_classes): how often each class was answered under noise."""
    counts = torch.zeros(len(images), num_classes, dtype=torch.int64)
    held: list[Tensor] = []
    rows: list[int] = []

    def count() -> None:
        for part in torch.cat(held).split(batch_size):
            logits = model(part)
            if not bool(logits.isfinite().all()):
                raise InputError("the model returned logits that are not finite under noise; try a smaller sigma.")
            predictions.append(logits.argmax(1).cpu())

    predictions: list[Tensor] = []
    for row, noisy in _noisy(images, start, noise, stream, samples):
        held.append(noisy)
        rows += [row] * len(noisy)
        if sum(map(len, held)) >= batch_size:
            count()
            held.clear()
    if held:
        count()
    counts.index_put_((torch.tensor(rows), torch.cat(predictions)), torch.ones((), dtype=torch.int64), accumulate=True)
    return counts


def _noisy(images: Tensor, start: int, noise: Noise, stream: int, samples: int) -> Iterator[tuple[int, Tensor]]:
    for row, image in enumerate(images):
        generator = torch.Generator(image.device).manual_seed(mix_seed(noise.seed, start + row, stream))
        for done in range(0, samples, DRAW):
            drawn = torch.randn((DRAW, *image.shape), generator=generator, device=image.device, dtype=image.dtype)
            yield row, image + noise.sigma * drawn[: samples - done]


def _radii(found: Sequence[Sequence[int]], labels: Sequence[int], noise: Noise) -> Smoothed:
    radius, prediction, wrong = list[float](), list[int | None](), 0
    for (selected, count), label in zip(found, labels, strict=True):
        certified = radius_of(count, noise.samples, noise.sigma, noise.alpha)
        prediction.append(selected if certified > 0 else None)
        wrong += certified > 0 and selected != label
        radius.append(certified if selected == label else 0.0)
    return Smoothed(noise, tuple(radius), tuple(prediction), prediction.count(None), wrong)
