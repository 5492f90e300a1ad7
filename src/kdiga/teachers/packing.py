"""A teacher's signals as rows on disk: fp32 logits, and a gradient in few bytes with one scale."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from kdiga.errors import InputError
from kdiga.teachers.manifest import Manifest
from kdiga.types import TeacherSignal

Rows = npt.NDArray[Any]  # records

WIDTHS = {"fp32": "<f4", "fp16": "<f2", "int8": "i1"}
LARGEST = {"fp16": 1.0, "int8": 127.0}  # stored value of a row's largest magnitude


def row_type(manifest: Manifest) -> np.dtype[Any]:
    """Return the record of one example in one view."""
    parts: list[Any] = [("logits", "<f4", (manifest.num_classes,))]
    if manifest.gradient_of is not None:
        channels, height, width = manifest.image_shape
        shape = (channels, height // manifest.downsample, width // manifest.downsample)
        parts += [("scale", "<f4")] if manifest.dtype in LARGEST else []
        parts.append(("gradient", WIDTHS[manifest.dtype], shape))
    return np.dtype(parts)


def pack(signal: TeacherSignal, manifest: Manifest) -> Rows:
    """Return signals as records, one for each example.

    Raises:
        InputError: If a signal is not finite, has no gradient, or has another number of classes.
    """
    logits = signal.logits.float().cpu()
    if logits.shape[1] != manifest.num_classes:
        raise InputError(
            f"the teacher has {logits.shape[1]} classes and the data {manifest.num_classes}; they must agree."
        )
    rows = np.zeros(len(logits), row_type(manifest))
    rows["logits"] = _finite(logits).numpy()
    if manifest.gradient_of is None:
        return rows
    if signal.input_gradient is None:
        raise InputError("the teacher gave no input gradient for a cache of gradients; ask it for one.")
    gradient = _finite(signal.input_gradient.float().cpu())
    if manifest.downsample > 1:
        gradient = F.avg_pool2d(gradient, manifest.downsample)
    if manifest.dtype in LARGEST:
        # A confident teacher's gradients can be below fp16's range.
        scale = gradient.flatten(1).abs().amax(1)
        rows["scale"] = scale.numpy()
        share = gradient / torch.where(scale > 0, scale, 1.0)[:, None, None, None]
        gradient = (share * LARGEST[manifest.dtype]).round() if manifest.dtype == "int8" else share
    rows["gradient"] = gradient.numpy()
    return rows


def unpack_gradient(rows: Rows, manifest: Manifest) -> Tensor:
    """Return the gradients of records, float32 (batch, channel, height, width)."""
    gradient = torch.from_numpy(np.ascontiguousarray(rows["gradient"])).float()
    if manifest.dtype in LARGEST:
        scale = torch.from_numpy(np.ascontiguousarray(rows["scale"]))
        gradient = gradient / LARGEST[manifest.dtype] * scale[:, None, None, None]
    if manifest.downsample > 1:
        # Every pixel of a block has the block's mean, so that the block's sum does not change.
        gradient = gradient.repeat_interleave(manifest.downsample, 2).repeat_interleave(manifest.downsample, 3)
    return gradient


def _finite(values: Tensor) -> Tensor:
    if not bool(values.isfinite().all()):
        raise InputError("the teacher's logits or input gradients are not finite; check its weights and normalisation.")
    return values
