"""Fingerprints of networks and sets of images: a SHA-256 of all that a measurement of them depends on."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from torch import Tensor, nn

from kdiga.data import FileSet, Images, MixedSet
from kdiga.decoding import encoded
from kdiga.model_output import logits_at
from kdiga.model_state import device_of, evaluating, seeded
from kdiga.models import Classifier, count_parameters
from kdiga.models.checkpoint import hash_of_tensors, tensors_of
from kdiga.models.sources.python_code import PythonCode, hash_of_code

READ = 1000  # files to hash
PROBED = 4  # images at which a module without a description is probed


def fingerprint_of_model(model: nn.Module, images: Tensor | None = None) -> str:
    """Return the hash of a model's description and of the name, dtype, shape and bytes of each of its tensors.

    The description is the spec of a :class:`kdiga.models.Classifier`, with the file of own code, and the ``repr`` of
    any other module. For own code and other modules it does not determine the outputs: with images (batch, channel,
    height, width), logits and input gradients of a few of them, and of the same ones with noise, count, too, in eval
    mode and on the model's device.
    """
    tensors = sorted(tensors_of(model).items())
    named = model.spec.name if isinstance(model, Classifier) else PythonCode.prefix + ":"
    if not named.startswith(PythonCode.prefix + ":"):
        return hash_of_tensors(tensors, printed(model))
    if images is not None:
        with evaluating(model):
            tensors += _probe(model, images[:PROBED].to(device_of(model, images.device)))
    return hash_of_tensors(tensors, printed(model) + hash_of_code(named.partition(":")[2]))


def describe_model(
    model: nn.Module, name: str | None = None, which: str | None = None, *, images: Tensor | None = None
) -> dict[str, Any]:
    """Return the description of a model for result files.

    Args:
        model: The model.
        name: Its name; None is its architecture.
        which: "best" or "last" weights of a run; None for a model of no run.
        images: Images, float (example, channel, height, width), at which a module without a description is probed.
    """
    architecture = model.spec.architecture if isinstance(model, Classifier) else type(model).__name__
    return {
        "model": name or architecture,
        "which": which,
        "architecture": architecture,
        "parameters": count_parameters(model),
        "fingerprint": fingerprint_of_model(model, images),
    }


def _probe(model: nn.Module, images: Tensor) -> list[tuple[str, Tensor]]:
    """Return logits and input gradients at images and around them."""
    noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(0)).to(images)
    points = torch.cat([images, (images + 0.1 * (noise - 0.5)).clamp(0, 1), noise])
    with seeded(0), torch.enable_grad():
        points.requires_grad_()
        logits = logits_at(model, points)
        found = [("probed logits", logits)]
        if logits.requires_grad:
            weights = torch.linspace(1, 2, logits[0].numel()).to(logits)
            (gradient,) = torch.autograd.grad((logits * weights).sum(), points, materialize_grads=True)
            found.append(("probed gradients", gradient))
    return found


def printed(model: nn.Module) -> str:
    """Return the spec of a :class:`kdiga.models.Classifier` as text, the printed form of any other module."""
    return architecture_of(model) if isinstance(model, Classifier) else repr(model)


def architecture_of(model: nn.Module) -> str:
    """Return a model's description without its weights: its spec, or the name of its class."""
    return json.dumps(model.spec.to_dict(), sort_keys=True) if isinstance(model, Classifier) else type(model).__name__


def fingerprint_of_images(data: Images) -> str:
    """Return the hash of images and labels, in their order.

    For images on disk it is the hash of their decoded size, labels, file names and file lengths, and of the bytes of
    all files, or of 1,000 evenly spread files if there are more. A changed file among the others is detected only by
    its length. Extra training images and their share count, too.
    """
    if isinstance(data, MixedSet):
        parts = [fingerprint_of_images(part) for part in (data.original, data.extra)]
        return hashlib.sha256(f"{parts} {data.share}{' unlabelled' if data.unlabelled else ''}".encode()).hexdigest()
    return _hash_of_files(data) if isinstance(data, FileSet) else fingerprint_of_tensors(data.images, data.labels)


def _hash_of_files(data: FileSet) -> str:
    rows, fit = data.rows.tolist(), "" if data.fit == "crop" else f" {data.fit}"
    digest = hashlib.sha256(f"files {data.image_shape} {data.resize}{fit};".encode())
    digest.update(data.labels.cpu().numpy().tobytes())
    for row in rows:
        digest.update(f"{data.storage.key(row)} {data.storage.length(row)};".encode())
    for row in rows[:: -(-len(rows) // READ)]:
        digest.update(encoded(data.storage.item(row)))
    return digest.hexdigest()


def fingerprint_of_tensors(images: Tensor, labels: Tensor) -> str:
    """Return :func:`fingerprint_of_images` of two tensors."""
    return hash_of_tensors((("images", images), ("labels", labels)))
