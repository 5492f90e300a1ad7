"""The sources of a teacher's signals: a live model, or signals that were stored for every view of every example."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdiga.data.transfer import to_device
from kdiga.errors import InputError
from kdiga.gradients.input_gradient import gradient_by_images
from kdiga.gradients.student_pass import Forward
from kdiga.losses import Score, score_by_name, where_labelled
from kdiga.model_output import logits_at
from kdiga.model_state import evaluating, frozen_parameters
from kdiga.teachers.packing import unpack_gradient
from kdiga.teachers.store import Store
from kdiga.types import Batch, TeacherSignal


@dataclass(frozen=True)
class OnlineTeacher:
    """Signals of a live model: its logits and, if needed, its input gradient.

    The model runs in eval mode. Its weights, gradients, mode and statistics do not change.

    Args:
        model: Model that maps images in [0, 1] to logits.
        gradient: Whether the method needs the input gradient.
        gradient_of: Score of each example that the input gradient is taken of.
        compiled: Compiled forward of the model; None runs the module.
    """

    model: nn.Module
    gradient: bool
    gradient_of: Score = "loss"
    compiled: Forward | None = None

    @property
    def answers_queries(self) -> bool:
        """Always true."""
        return True

    def __call__(self, batch: Batch) -> TeacherSignal:
        """Return the signal for the batch's images."""
        if not self.gradient:
            return TeacherSignal(self.logits(batch), None)
        images = batch.images.detach().requires_grad_()
        with torch.enable_grad(), self._inference():
            logits = logits_at(self._forward, images)
            gradient = gradient_by_images(score_by_name(self.gradient_of)(logits, batch.labels), images)
        return TeacherSignal(logits.detach(), gradient)

    def logits(self, batch: Batch) -> Tensor:
        """Return the logits for the batch's images, without the input gradient."""
        return self.at(batch.images.detach())

    def at(self, images: Tensor) -> Tensor:
        """Return logits for any images, with a graph to the images if these require a gradient."""
        with self._inference(), torch.set_grad_enabled(images.requires_grad and torch.is_grad_enabled()):
            return logits_at(self._forward, images)

    @property
    def _forward(self) -> Forward:
        return self.compiled or self.model

    @contextmanager
    def _inference(self) -> Generator[None]:
        # With frozen parameters a compiled backward pass does not compute their gradients, and an eager one does not
        # store the tensors for them. They are not needed here, even if the method trains the teacher.
        with evaluating(self.model), frozen_parameters(self.model):
            yield


@dataclass(frozen=True)
class CachedTeacher:
    """Signals from a store. A batch's index and view select the rows; its images are not used.

    Args:
        store: Complete store.
        gradient: Whether the method needs the input gradient; otherwise it is not read.
    """

    store: Store
    gradient: bool = True

    @classmethod
    def open(cls, folder: str | Path) -> CachedTeacher:
        """Return the teacher in a folder that ``kdiga cache`` filled, after a check of every file's checksum.

        Raises:
            InputError: If there is no store, it is not complete, or a file is damaged.
        """
        store = Store.open(Path(folder))
        store.check()
        return cls(store, store.manifest.gradient_of is not None)

    @property
    def answers_queries(self) -> bool:
        """Always false."""
        return False

    def __call__(self, batch: Batch) -> TeacherSignal:
        """Return the stored signal of the batch's examples in its view, in float32 on its device.

        Raises:
            InputError: If the store does not have the view, an example, or the gradient.
        """
        if not self.gradient:
            return TeacherSignal(self.logits(batch), None)
        manifest = self.store.manifest
        if manifest.gradient_of is None:
            raise InputError(
                f"the teacher cache in {str(self.store.folder)!r} holds logits only and this method needs input "
                "gradients; fill one with this method's recipe."
            )
        rows = self.store.rows(batch.view, _indices(batch))
        device = batch.images.device
        logits = to_device(torch.from_numpy(np.ascontiguousarray(rows["logits"])), device)
        # In the images' memory layout, like a live gradient: in another layout sums have other rounding errors.
        gradient = torch.empty_like(batch.images, dtype=torch.float32, requires_grad=False)
        gradient.copy_(to_device(unpack_gradient(rows, manifest), device))
        return TeacherSignal(logits, where_labelled(gradient, batch.labels))

    def logits(self, batch: Batch) -> Tensor:
        """Return the stored logits of the batch's examples in its view, without reading gradients."""
        rows = self.store.logits(batch.view, _indices(batch))
        return to_device(torch.from_numpy(rows), batch.images.device)

    def at(self, images: Tensor) -> Tensor:
        """Raise an error: a store has signals for clean images only.

        Raises:
            InputError: Always.
        """
        raise InputError(
            "a teacher cache was queried for images that it does not hold; give the live model, or a method that needs "
            "no queries (see kdiga methods)."
        )

    def about(self) -> dict[str, Any]:
        """Return the description of the store for results, as plain data."""
        manifest = self.store.manifest
        notes = {"batch_size": manifest.batch_size, "device": manifest.device, "version": manifest.version}
        return {"folder": str(self.store.folder)} | manifest.wanted() | {"filled_with": notes}


def _indices(batch: Batch) -> Any:
    return batch.index.cpu().numpy()  # a feed's index is on the CPU, so that no step waits for a GPU here
