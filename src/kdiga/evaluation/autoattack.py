"""AutoAttack (Croce and Hein, 2020), run by its official code."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from kdiga.errors import InputError
from kdiga.modes import seeded
from kdiga.types import ThreatModel

VERSIONS = ("standard", "plus", "rand")
OFFICIAL_NORM = {"linf": "Linf", "l2": "L2"}
FEWEST_CLASSES = 4  # its targeted DLR loss compares the four largest logits


class AutoAttack:
    """The official ensemble: APGD-CE, APGD-T, FAB-T and Square in the standard version.

    Args:
        version: "standard", "plus" or "rand".
        batch_size: examples attacked together.
    """

    def __init__(self, version: str = "standard", batch_size: int = 500) -> None:
        self.version = version
        self.batch_size = batch_size
        self.notes: Sequence[str] = ()

    def survivors(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        *,
        threat: ThreatModel,
        seed: int,
        progress: Callable[[int, int], None],
    ) -> Tensor:
        """Return which examples are still right; see :class:`kdiga.evaluation.attacks.Attack`."""
        import pyautoattack

        wrapped = _ContiguousGradients(model).eval()
        with torch.no_grad():
            num_classes = wrapped(images[:1]).shape[1]
        if num_classes < FEWEST_CLASSES:
            raise InputError(
                f"AutoAttack was asked about a model of {num_classes} classes; its targeted attacks need at least "
                f"{FEWEST_CLASSES}. Use --attacks clean,fgsm,pgd-40 instead."
            )
        right = torch.zeros(len(labels), dtype=torch.bool)
        notes: list[str] = []
        with seeded(seed), _messages_to(notes):
            build: Any = pyautoattack.AutoAttack
            official = build(
                wrapped, norm=OFFICIAL_NORM[threat.norm], eps=threat.eps, seed=seed, version=self.version,
                device=images.device,
            )  # fmt: skip
            # Its targeted attacks try 9 other classes; a model of fewer has no more to offer.
            official.apgd_targeted.n_target_classes = min(9, num_classes - 1)
            official.fab.n_target_classes = min(9, num_classes - 1)
            for start in range(0, len(images), self.batch_size):
                part = slice(start, start + self.batch_size)
                _, predictions = official.run_standard_evaluation(
                    images[part].contiguous(), labels[part], batch_size=self.batch_size
                )
                right[part] = (predictions == labels[part]).cpu()
                progress(min(start + self.batch_size, len(images)), len(images))
        self.notes = tuple(dict.fromkeys(notes))
        return right


class _ContiguousGradients(nn.Module):
    """The official code flattens input gradients with ``view``, which fails on channels_last ones."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(_Contiguous.apply(images))


class _Contiguous(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        return images.view_as(images)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return gradient.contiguous()


@contextmanager
def _messages_to(notes: list[str]) -> Generator[None]:
    """Collect the package's warnings instead of letting them reach the terminal."""

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            notes.append(record.getMessage().split(" See ")[0])

    logger, handler = logging.getLogger("auto-attack"), Collector(logging.WARNING)
    before = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = before
