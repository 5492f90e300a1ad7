"""Randomized smoothing (Cohen, Rosenfeld and Kolter, 2019, arXiv 1902.02918): an L2 radius with a confidence.

The smoothed classifier answers with the most frequent class of the model under Gaussian noise on the pixels. If this
class has probability ``p > 1/2``, the smoothed classifier gives the same answer to every image closer than
``sigma * Phi^-1(p)`` in L2 (theorem 1). Counts of noisy answers bound ``p`` from below, so each radius is wrong with
probability at most ``alpha``. The radius belongs to the smoothed classifier; the model without noise has none.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from scipy.stats import beta, norm
from torch import Tensor, nn

from kdiga.certification.certificate import Certificate, Radii, accuracy_curve
from kdiga.certification.class_scores import class_scores
from kdiga.errors import InputError, check_at_least
from kdiga.model_output import logits_at
from kdiga.model_state import device_of, evaluating, frozen_parameters, mix_seed
from kdiga.runs.chunks import Chunk, run_chunks, split_chunks
from kdiga.runs.fingerprints import fingerprint_of_model
from kdiga.runs.work_units import OnProgress, ResultCache

CHUNK_SIZE = 10  # examples per work unit
DRAW = 50  # noise samples per draw: fixed, so that a stream gives the same samples for every batch size
SELECTION, ESTIMATION = 0, 1  # random streams of an example


@dataclass(frozen=True)
class Noise:
    """Noise of a smoothed classifier, and the confidence of its radii."""

    # Standard deviation of the noise, in pixels in [0, 1], above 0. Noisy pixels are not clipped, because the theorem
    # needs Gaussian noise.
    sigma: float = 0.25
    samples: int = 1000  # number of samples that bound the probability of the selected class, at least 1
    selection_samples: int = 100  # number of samples that select the class, at least 1
    alpha: float = 0.001  # probability of a wrong radius, per example, in (0, 1)
    seed: int = 0  # seed of the noise; each example has its own random streams

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
        """Radius if all samples agree; no radius is larger."""
        return certified_radius(self.samples, self.samples, self.sigma, self.alpha)

    def key(self) -> dict[str, Any]:
        """Return the settings as plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Smoothed(Certificate):
    """Certified L2 radii of a smoothed model."""

    noise: Noise  # noise and confidence
    radius: Radii  # radius of each example; 0.0 for a wrong or withheld answer
    prediction: Sequence[int | None]  # answer of each example; None if the model abstains
    abstained: int  # number of examples without an answer
    wrong: int  # number of examples with a wrong answer

    @property
    def correct(self) -> tuple[bool, ...]:
        """Whether the smoothed model answers each example, and correctly."""
        return tuple(radius != 0.0 for radius in self.radius)

    def to_dict(self) -> dict[str, Any]:
        """Return all results as plain data."""
        settings = {name: value for name, value in self.noise.key().items() if name != "seed"}
        return {
            "norm": "l2",
            **settings,
            "largest_radius": self.noise.largest_radius,
            "radius": list(self.radius),
            "prediction": list(self.prediction),
            "abstained": self.abstained,
            "wrong": self.wrong,
            "curve": accuracy_curve(self.radius, self.noise.largest_radius),
        }


def lower_bound(count: int, samples: int, alpha: float) -> float:
    """Return the one-sided Clopper-Pearson lower bound of a probability at confidence ``1 - alpha``.

    >>> round(lower_bound(1000, 1000, 0.001), 5)
    0.99312
    """
    return 0.0 if count == 0 else float(beta.ppf(alpha, count, samples - count + 1))


def certified_radius(count: int, samples: int, sigma: float, alpha: float) -> float:
    """Return ``sigma * Phi^-1(lower bound)``; 0.0 if the bound is not above one half."""
    probability = lower_bound(count, samples, alpha)
    return sigma * float(norm.ppf(probability)) if probability > 0.5 else 0.0


def smooth(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    batch_size: int = 500,
    folder: Path | None = None,
    progress: OnProgress | None = None,
    **settings: Any,
) -> Smoothed:
    """Certify each example of the smoothed model: algorithm CERTIFY of Cohen et al. (2019).

    Args:
        model: Maps images to logits (batch, num_classes). It runs in eval mode on its own device; its modes and
            parameters do not change.
        images: Float (example, channel, height, width), pixels in [0, 1].
        labels: Int (example,).
        batch_size: Number of noisy images per pass through the network. No count depends on it.
        folder: Folder of finished work units, which several processes can share; None saves nothing.
        progress: Called with "smoothing", the finished and the total number of examples.
        settings: Fields of :class:`Noise`.

    Raises:
        InputError: If a setting is out of range, or as :func:`kdiga.certification.class_scores.class_scores`.
    """
    noise = Noise(**settings)
    check_at_least(1, batch_size=batch_size)
    device = device_of(model, images.device)
    images, labels = images.to(device), labels.to(device)
    with evaluating(model), frozen_parameters(model):
        num_classes = class_scores(model, images, labels).num_classes
        fingerprint = fingerprint_of_model(model, images) if folder is not None else ""

        def key(chunk: Chunk) -> dict[str, Any]:
            return {
                "certification": "smoothing",
                "model": fingerprint,
                "start": chunk.start,
                "noise": noise.key(),
                "examples": chunk.fingerprint,
            }

        def counts(chunk: Chunk, stream: int, number: int) -> Tensor:
            """Return the number of answers of each class under noise, int64 (example, num_classes)."""
            batches = _batches(_noisy_images(chunk, noise, stream, number), batch_size)
            predictions = torch.cat([_predictions(model, batch) for batch in batches]).view(-1, number)
            return torch.stack([row.bincount(minlength=num_classes) for row in predictions])

        def work(chunk: Chunk) -> list[list[int]]:
            """Return for each example the selected class, and its count among the other samples."""
            selected = counts(chunk, SELECTION, noise.selection_samples).argmax(1, keepdim=True)
            counted = counts(chunk, ESTIMATION, noise.samples).gather(1, selected)
            return torch.cat((selected, counted), 1).tolist()

        chunks = split_chunks(images, labels, CHUNK_SIZE)
        (outcomes,) = run_chunks("smoothing", chunks, [(key, work)], ResultCache(folder), progress)
    return _certify([pair for outcome in outcomes for pair in outcome], labels.tolist(), noise)


def _noisy_images(chunk: Chunk, noise: Noise, stream: int, samples: int) -> Iterator[Tensor]:
    """Yield ``samples`` noisy copies of each image, image by image, at most :data:`DRAW` at a time."""
    for row, image in enumerate(chunk.images):
        generator = torch.Generator(image.device).manual_seed(mix_seed(noise.seed, chunk.start + row, stream))
        for done in range(0, samples, DRAW):
            drawn = torch.randn((DRAW, *image.shape), generator=generator, device=image.device, dtype=image.dtype)
            yield image + noise.sigma * drawn[: samples - done]


def _batches(parts: Iterable[Tensor], batch_size: int) -> Iterator[Tensor]:
    pending = list[Tensor]()
    for part in parts:
        pending.append(part)
        if sum(map(len, pending)) >= batch_size:
            yield from torch.cat(pending).split(batch_size)
            pending.clear()
    if pending:
        yield from torch.cat(pending).split(batch_size)


@torch.no_grad()
def _predictions(model: nn.Module, images: Tensor) -> Tensor:
    logits = logits_at(model, images)
    if not bool(logits.isfinite().all()):
        raise InputError("the model returned logits that are not finite under noise; try a smaller sigma.")
    return logits.argmax(1).cpu()


def _certify(counts: Sequence[Sequence[int]], labels: Sequence[int], noise: Noise) -> Smoothed:
    radius, prediction, wrong = list[float](), list[int | None](), 0
    for (selected, count), label in zip(counts, labels, strict=True):
        certified = certified_radius(count, noise.samples, noise.sigma, noise.alpha)
        prediction.append(selected if certified > 0 else None)
        wrong += certified > 0 and selected != label
        radius.append(certified if selected == label else 0.0)
    return Smoothed(noise, tuple(radius), tuple(prediction), prediction.count(None), wrong)
