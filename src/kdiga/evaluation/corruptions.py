"""Accuracy under common corruptions (Hendrycks and Dietterich, 2019) that torchvision and Pillow can make.

These are seven of the paper's fifteen (noises, brightness, contrast, pixels, JPEG) and its additional Gaussian blur.
The other blurs, weather and elastic transforms need libraries that kdiga does not depend on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from io import BytesIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from kdiga.errors import InputError
from kdiga.evaluation.accuracies import CorruptionAccuracy
from kdiga.evaluation.stages import AttackSettings
from kdiga.losses import classified_correctly
from kdiga.model_output import logits_at
from kdiga.model_state import device_of, evaluating, mix_seed, seeded
from kdiga.runs.fingerprints import fingerprint_of_model, fingerprint_of_tensors
from kdiga.runs.provenance import installed_version
from kdiga.runs.work_units import WorkUnit, run_work_units

SMALL_SIDE = 64  # pixels; smaller and equal images get the strengths of CIFAR-10-C, larger ones those of ImageNet-C
# For each corruption its strengths at severity 1 to 5, in CIFAR-10-C and in ImageNet-C.
STRENGTHS: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "gaussian_noise": ((0.04, 0.06, 0.08, 0.09, 0.10), (0.08, 0.12, 0.18, 0.26, 0.38)),
    "shot_noise": ((500, 250, 100, 75, 50), (60, 25, 12, 5, 3)),
    "impulse_noise": ((0.01, 0.02, 0.03, 0.05, 0.07), (0.03, 0.06, 0.09, 0.17, 0.27)),
    "gaussian_blur": ((0.4, 0.6, 0.7, 0.8, 1), (1, 2, 3, 4, 6)),
    "brightness": ((0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": ((0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05)),
    "pixelate": ((0.95, 0.9, 0.85, 0.75, 0.65), (0.6, 0.5, 0.4, 0.3, 0.25)),
    "jpeg_compression": ((80, 65, 58, 50, 40), (25, 18, 15, 10, 7)),
}
SEVERITIES = range(1, 6)


def corruption_accuracy(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], settings: AttackSettings
) -> CorruptionAccuracy:
    """Measure accuracy under each corruption at severity 1 to 5; the threat model has no part in it.

    Args:
        model: Network from images to logits. It runs in eval mode and is left unchanged.
        batches: Images in [0, 1], float (batch, channel, height, width) with 1 or 3 channels, and labels.
        settings: Seed of the noise, number of examples in a work unit, result cache and progress.

    Raises:
        InputError: For images of another number of channels.
    """
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    if images.shape[1] not in (1, 3):
        raise InputError(f"the images have {images.shape[1]} channels; JPEG, a corruption, is defined for 1 and 3.")
    fingerprint = fingerprint_of_model(model, images)
    versions = {name: installed_version(name) for name in ("torchvision", "pillow")}
    work_units = list[WorkUnit]()
    chunks = list(zip(images.split(settings.batch_size), labels.split(settings.batch_size), strict=True))
    for number, (part, answers) in enumerate(chunks):
        seed, examples = mix_seed(settings.seed, number), fingerprint_of_tensors(part, answers)
        for name, strengths in STRENGTHS.items():
            key = {
                "corruption": name,
                "strengths": list(strengths[not _is_small(part)]),
                "model": fingerprint,
                "examples": examples,
                "seed": seed,
                "versions": versions,
            }
            work = partial(_outcomes, model, part, answers, name, seed)
            work_units.append(WorkUnit("corruptions", key, len(part) * len(SEVERITIES), work))
    with evaluating(model):
        outcomes = run_work_units(work_units, settings.result_cache, settings.progress)
    correct = {
        name: [
            tuple(bool(right) for found in outcomes[place :: len(STRENGTHS)] for right in found[severity - 1])
            for severity in SEVERITIES
        ]
        for place, name in enumerate(STRENGTHS)
    }
    return CorruptionAccuracy("CIFAR-10-C" if _is_small(images) else "ImageNet-C", correct, tuple(labels.tolist()))


def corrupt(images: Tensor, name: str, severity: int, seed: int) -> Tensor:
    """Return corrupted images, on the CPU; ``name`` is a key of ``STRENGTHS``, ``severity`` a number from 1 to 5."""
    images = images.detach().cpu().float()
    strength = STRENGTHS[name][not _is_small(images)][severity - 1]
    with seeded(seed):
        return CORRUPTIONS[name](images, strength).clamp(0, 1)


@torch.no_grad()
def _outcomes(model: nn.Module, images: Tensor, labels: Tensor, name: str, seed: int) -> list[list[int]]:
    found = list[list[int]]()
    for severity in SEVERITIES:
        logits = logits_at(model, corrupt(images, name, severity, seed).to(device_of(model), images.dtype)).cpu()
        found.append(classified_correctly(logits, labels.cpu()).int().tolist())
    return found


def _is_small(images: Tensor) -> bool:
    return min(images.shape[-2:]) <= SMALL_SIDE


def _impulse_noise(images: Tensor, share: float) -> Tensor:
    draws = torch.rand_like(images)
    return torch.where(draws < share / 2, 0, torch.where(draws < share, 1, images))


def _gaussian_blur(images: Tensor, sigma: float) -> Tensor:
    from torchvision.transforms.v2 import functional  # here, because torchvision loads slowly

    radius = min(int(4 * sigma + 0.5), min(images.shape[-2:]) - 1)
    return functional.gaussian_blur(images, [2 * radius + 1] * 2, [sigma] * 2) if radius else images


def _brightness(images: Tensor, added: float) -> Tensor:
    """Add to the value of each pixel in HSV, which is its largest channel."""
    value = images.amax(1, keepdim=True)
    brighter = (value + added).clamp(max=1)
    return torch.where(value > 0, images * (brighter / value.clamp_min(1e-6)), brighter)


def _contrast(images: Tensor, factor: float) -> Tensor:
    mean = images.mean((2, 3), keepdim=True)
    return (images - mean) * factor + mean


def _pixelate(images: Tensor, share: float) -> Tensor:
    def change(image: Image.Image) -> Image.Image:
        small = [max(1, int(side * share)) for side in image.size]
        return image.resize((small[0], small[1]), Image.Resampling.BOX).resize(image.size, Image.Resampling.BOX)

    return _by_pillow(images, change)


def _jpeg(images: Tensor, quality: float) -> Tensor:
    def change(image: Image.Image) -> Image.Image:
        file = BytesIO()
        image.save(file, "JPEG", quality=int(quality))
        return Image.open(file)

    return _by_pillow(images, change)


def _by_pillow(images: Tensor, change: Callable[[Image.Image], Image.Image]) -> Tensor:
    """Return images that a function of 8-bit images makes."""
    found = list[Tensor]()
    for pixels in (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy():
        image = Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)
        found.append(torch.from_numpy(np.array(change(image)).reshape(pixels.shape)).permute(2, 0, 1))
    return torch.stack(found).float() / 255


CORRUPTIONS: Mapping[str, Callable[[Tensor, float], Tensor]] = {
    "gaussian_noise": lambda images, sigma: images + sigma * torch.randn_like(images),
    "shot_noise": lambda images, photons: torch.poisson(images * photons) / photons,
    "impulse_noise": _impulse_noise,
    "gaussian_blur": _gaussian_blur,
    "brightness": _brightness,
    "contrast": _contrast,
    "pixelate": _pixelate,
    "jpeg_compression": _jpeg,
}
