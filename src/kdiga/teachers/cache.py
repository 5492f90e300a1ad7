"""What a teacher once said about every view of every example, read in place of asking it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdiga.errors import InputError
from kdiga.teachers.packing import unpack_gradient
from kdiga.teachers.store import Store
from kdiga.types import Batch, TeacherSignal


@dataclass(frozen=True)
class CachedTeacher:
    """Signals from a store; rows are found by a batch's index and view, its images are not looked at.

    Args:
        store: complete.
        gradient: whether the method needs the input gradient; without it, none is read.
    """

    store: Store
    gradient: bool = True

    @classmethod
    def open(cls, folder: str | Path) -> CachedTeacher:
        """Return the teacher in a folder that ``kdiga cache`` filled, every file verified by its checksum.

        Raises:
            InputError: if there is none, it is not complete, or a file is damaged.
        """
        store = Store.open(Path(folder))
        store.check()
        return cls(store, store.manifest.gradient_of is not None)

    @property
    def answers_queries(self) -> bool:
        """Never: the model is not here."""
        return False

    def __call__(self, batch: Batch) -> TeacherSignal:
        """Return the stored signal of the batch's examples in its view, in float32 on its device.

        Raises:
            InputError: for a view or an example beyond the store, or a gradient that it does not hold.
        """
        if not self.gradient:
            return TeacherSignal(self.logits(batch), None)
        manifest = self.store.manifest
        if manifest.gradient_of is None:
            raise InputError(
                f"the teacher cache in {str(self.store.folder)!r} holds logits alone and this method needs input "
                "gradients; fill one with this method's recipe."
            )
        rows = self.store.rows(batch.view, _indices(batch))
        logits = torch.from_numpy(np.ascontiguousarray(rows["logits"])).to(batch.images.device)
        # In the images' memory layout, as a live gradient is: sums over another would round otherwise.
        gradient = torch.empty_like(batch.images, dtype=torch.float32, requires_grad=False)
        return TeacherSignal(logits, gradient.copy_(unpack_gradient(rows, manifest)))

    def logits(self, batch: Batch) -> Tensor:
        """Return the stored logits of the batch's examples in its view; no gradient is read."""
        rows = self.store.logits(batch.view, _indices(batch))
        return torch.from_numpy(rows).to(batch.images.device)

    def at(self, images: Tensor) -> Tensor:
        """Refuse.

        Raises:
            InputError: always; stored signals know clean images only.
        """
        raise InputError(
            "a teacher cache was asked for logits at other images than it holds; give the live model, or a method "
            "that does not ask (see kdiga methods)."
        )

    def about(self) -> dict[str, Any]:
        """Return what a result should say of the store, as plain data."""
        manifest = self.store.manifest
        notes = {"batch_size": manifest.batch_size, "device": manifest.device, "version": manifest.version}
        return {"folder": str(self.store.folder)} | manifest.wanted() | {"filled_with": notes}


def _indices(batch: Batch) -> Any:
    return batch.index.cpu().numpy()
