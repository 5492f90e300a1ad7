"""Local Lipschitz constants of margins: gradient norms at random points of a ball, and an extreme-value fit."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdiga.attacks import uniform_start
from kdiga.certification.class_scores import ClassScores, other_classes
from kdiga.certification.weibull import LEAST_OBSERVATIONS, fit_reverse_weibull
from kdiga.errors import InputError
from kdiga.losses import DUAL_ORDER
from kdiga.model_output import logits_at
from kdiga.model_state import seeded
from kdiga.runs.chunks import Chunk, run_chunks, split_chunks
from kdiga.runs.fingerprints import fingerprint_of_model
from kdiga.runs.work_units import OnProgress, ResultCache
from kdiga.types import ThreatModel, refuse_l1

CHUNK_SIZE = 5  # examples per work unit
# Points per pass through the network. On a CPU the activations of a pass have to stay in the allocator's own pool: with
# 500 points of 28x28 pixels up to half of the time went into page faults.
POINTS = {"cpu": 50, "cuda": 2000}
FEW_CHANNELS = 8


@dataclass(frozen=True)
class Sampling:
    """Points at which gradients are sampled."""

    ball: ThreatModel  # norm, and radius as eps, above 0
    batches: int = 100  # number of batches of points, at least 5. Each batch gives one maximum.
    batch_size: int = 25  # number of points per batch, at least 1
    seed: int = 0  # seed of the points; each example has its own random stream

    def __post_init__(self) -> None:
        refuse_l1(self.ball, "a certificate")
        if not self.ball.eps > 0:
            raise InputError(
                f"the largest radius was {self.ball.eps:g}; it must be above 0. Give max_radius, on the command line "
                "--max-radius."
            )
        if self.batches < LEAST_OBSERVATIONS or self.batch_size < 1:
            raise InputError(
                f"CLEVER was asked for {self.batches} batches of {self.batch_size} points; at least "
                f"{LEAST_OBSERVATIONS} batches of at least 1, and takes 100 of 25 by default."
            )

    def key(self) -> dict[str, Any]:
        """Return the settings as plain data."""
        settings = {name: value for name, value in vars(self).items() if name != "ball"}
        return {"norm": self.ball.norm, "radius": self.ball.eps, **settings}


@dataclass(frozen=True)
class LipschitzEstimates:
    """Estimates of ``max ||grad (f_c - f_j)||_q`` over a ball, each float64 (example, num_classes - 1) on the CPU."""

    location: Tensor  # the estimate; NaN for a failed fit and for an example that was left out
    largest: Tensor  # largest sampled norm
    p_value: Tensor  # P-value of the fit; NaN without a fit, also if all maxima are equal

    @classmethod
    def from_maxima(cls, maxima: Sequence[Tensor]) -> LipschitzEstimates:
        """Fit the maxima of some examples, each (batches, num_classes - 1), all at once."""
        rows = torch.cat([part.T for part in maxima]).cpu()
        fit = fit_reverse_weibull(rows)
        shape = len(maxima), maxima[0].shape[1]
        return cls(*(part.view(shape) for part in (fit.location, rows.double().amax(1), fit.p_value)))


def estimate_lipschitz(
    models: Sequence[nn.Module],
    images: Tensor,
    scores: Sequence[ClassScores],
    sampling: Sampling,
    *,
    points: int | None = None,
    folder: Path | None = None,
    progress: OnProgress | None = None,
) -> list[LipschitzEstimates]:
    """Return the estimates of each model and, for two models, of the difference of their gradients.

    The models are in eval mode with frozen parameters, and share all points. An example is left out if no model
    classifies it correctly. ``points`` is the number of points per pass through the network; None chooses by device.
    """
    fingerprints = [fingerprint_of_model(model, images) for model in models] if folder is not None else []
    kinds = len(models) + (len(models) == 2)
    wanted = torch.stack([each.correct for each in scores]).any(0).cpu()

    def rows(chunk: Chunk) -> Tensor:
        return wanted[chunk.start : chunk.start + len(chunk.images)]

    def key(chunk: Chunk) -> dict[str, Any]:
        return {
            "certification": "lipschitz",
            "models": fingerprints,
            "examples": chunk.fingerprint,
            "start": chunk.start,
            "wanted": rows(chunk).int().tolist(),
            "sampling": sampling.key(),
        }

    def work(chunk: Chunk) -> list[list[list[list[float | None]]]]:
        maxima = [
            largest_norms(models, chunk.images[row], chunk.labels[row], sampling, chunk.start + row, points=points)
            for row in rows(chunk).nonzero()[:, 0].tolist()
        ]
        if not maxima:
            return [[[], [], []]] * kinds
        return [_to_plain(LipschitzEstimates.from_maxima(each)) for each in zip(*maxima, strict=True)]

    with fast_convolutions(models):
        chunks = split_chunks(images, scores[0].labels, CHUNK_SIZE)
        (outcomes,) = run_chunks("clever", chunks, [(key, work)], ResultCache(folder), progress)
    num_others = scores[0].num_classes - 1
    return [_from_plain([outcome[kind] for outcome in outcomes], wanted, num_others) for kind in range(kinds)]


def _to_plain(estimates: LipschitzEstimates) -> list[list[list[float | None]]]:
    parts = estimates.location, estimates.largest, estimates.p_value
    return [[[None if math.isnan(value) else value for value in row] for row in part.tolist()] for part in parts]


def _from_plain(
    chunks: Sequence[Sequence[Sequence[Sequence[float | None]]]], wanted: Tensor, num_others: int
) -> LipschitzEstimates:
    """Join the outcomes of all chunks; examples that were left out become NaN."""
    parts = [torch.full((len(wanted), num_others), torch.nan, dtype=torch.float64) for _ in range(3)]
    if bool(wanted.any()):
        for place, part in enumerate(parts):
            rows = [[math.nan if x is None else x for x in row] for chunk in chunks for row in chunk[place]]
            part[wanted] = torch.tensor(rows, dtype=torch.float64)
    return LipschitzEstimates(*parts)


def largest_norms(
    models: Sequence[nn.Module],
    image: Tensor,
    label: Tensor,
    sampling: Sampling,
    example: int,
    *,
    points: int | None = None,
) -> list[Tensor]:
    """Return the largest gradient norm of each batch of random points around an image, for every other class.

    The points are uniform in the ball and clipped to [0, 1], like the start of an attack. All models and classes share
    them: one forward pass serves ``num_classes - 1`` backward passes.

    Args:
        models: One model, or two, in eval mode, parameters frozen.
        image: Float (channel, height, width).
        label: Int64 (), the class c.
        sampling: Points and seed.
        example: Index of the example, which decides its random stream.
        points: Number of points per pass; None chooses by device. It changes results by rounding only.

    Returns:
        For each model, and for the difference of two, float (batches, num_classes - 1): the largest
        ``||grad (f_c - f_j)||_q``, in logits per unit of the ball's norm, classes j as in :func:`other_classes`.
    """
    count, order = sampling.batches * sampling.batch_size, DUAL_ORDER[sampling.ball.norm]
    with seeded(sampling.seed, example):
        start = uniform_start(image[None].expand(count, *image.shape), sampling.ball)
    parts = start.split(points or POINTS.get(image.device.type, 500))
    norms = [_gradient_norms(models, part, label.expand(len(part)), order) for part in parts]
    return [
        torch.cat(each).view(sampling.batches, sampling.batch_size, -1).amax(1) for each in zip(*norms, strict=True)
    ]


def _gradient_norms(models: Sequence[nn.Module], points: Tensor, labels: Tensor, order: int) -> list[Tensor]:
    """Return the norms (point, num_classes - 1) of each model, and of the difference of two."""
    points = points.detach().requires_grad_()
    with torch.enable_grad():
        logits = [logits_at(model, points) for model in models]
    if not all(z.requires_grad for z in logits):
        raise InputError(
            "no gradient reaches the input of the model, and CLEVER needs gradients; certify the model by smoothing."
        )
    num_classes = logits[0].shape[1]
    others = other_classes(labels, num_classes)
    found: list[list[Tensor]] = [[] for _ in range(len(models) + (len(models) == 2))]
    for place in range(num_classes - 1):
        direction = torch.zeros_like(logits[0])
        direction.scatter_(1, labels[:, None], 1.0).scatter_(1, others[:, place, None], -1.0)
        again = place < num_classes - 2
        gradients = [
            torch.autograd.grad(z, points, direction, retain_graph=again, materialize_grads=True)[0] for z in logits
        ]
        if len(gradients) == 2:
            gradients.append(gradients[1] - gradients[0])
        for norms, gradient in zip(found, gradients, strict=True):
            norms.append(torch.linalg.vector_norm(gradient.flatten(1), ord=order, dim=1))
    return [torch.stack(norms, 1) for norms in found]


@contextmanager
def fast_convolutions(models: Sequence[nn.Module]) -> Generator[None]:
    """Choose for each convolution on a CPU the kernels with the fastest input gradients; results change by rounding.

    oneDNN, which PyTorch chooses, is up to ten times slower than a matrix product for inputs of one or a few channels,
    as in the first layer for grey images. It is twice as slow on channels-first weights as on channels-last ones.
    """
    with ExitStack() as stack:
        for layer in {part for model in models for part in model.modules() if type(part) is nn.Conv2d}:
            if layer.weight.device.type != "cpu":
                continue
            if _suits_matrix_product(layer):
                setattr(layer, "forward", partial(_by_matrix_product, layer))  # noqa: B010
                stack.callback(layer.__dict__.pop, "forward")
            else:
                stack.callback(setattr, layer.weight, "data", layer.weight.data)
                layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)
        yield


def _suits_matrix_product(layer: nn.Conv2d) -> bool:
    plain = layer.padding_mode == "zeros" and not isinstance(layer.padding, str) and layer.groups == 1
    simple = plain and layer.dilation == (1, 1) and "forward" not in layer.__dict__
    return simple and layer.in_channels <= FEW_CHANNELS and layer.weight.dtype in (torch.float32, torch.float64)


def _by_matrix_product(layer: nn.Conv2d, images: Tensor) -> Tensor:
    # nn.Conv2d reaches this operator only with oneDNN switched off for the whole process.
    out = torch.ops.aten.thnn_conv2d(
        images, layer.weight, list(layer.kernel_size), layer.bias, list(layer.stride), list(layer.padding)
    )
    return out.contiguous(memory_format=torch.channels_last) if layer.out_channels > FEW_CHANNELS else out
