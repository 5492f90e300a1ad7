"""Held-out training images, and the check after an epoch: clean and PGD accuracy on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from kdiga.data import FileSet, Images, ImageSet, MixedSet, split
from kdiga.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from kdiga.errors import OutOfMemoryError
from kdiga.evaluation import evaluate
from kdiga.evaluation.evaluate import BATCH_SIZE
from kdiga.evaluation.stages import seed_at
from kdiga.model_state import mix_seed
from kdiga.training.settings import Selection, TrainingSettings
from kdiga.types import ThreatModel

ImagesT = TypeVar("ImagesT", bound=Images)


@dataclass(frozen=True)
class Scores:
    """Validation accuracies in [0, 1], and the counts behind them."""

    clean: float
    robust: float
    examples: int

    def by(self, select: Selection) -> float:
        """Return the score for the choice of the best checkpoint."""
        return {"robust": self.robust, "clean": self.clean, "mean": (self.clean + self.robust) / 2}[select]


def attack_of(steps: int) -> str:
    """Return the name of the check's attack with a number of steps."""
    return f"pgd-{steps}" if steps > 1 else "fgsm"


@dataclass(frozen=True)
class Validator:
    """Scores a model on the first ``examples`` of a validation set.

    Args:
        data: Validation images, not part of the test set.
        threat: Ball that PGD stays in.
        steps: Number of PGD steps, with step size eps / 4.
        examples: Largest number of images.
        seed: Seed of the run.
        process_group: Processes that share the examples.
    """

    data: ImageSet
    threat: ThreatModel
    steps: int
    examples: int
    seed: int
    process_group: ProcessGroup = SINGLE_PROCESS

    @classmethod
    def of(
        cls,
        data: ImageSet,
        threat: ThreatModel,
        settings: TrainingSettings,
        process_group: ProcessGroup = SINGLE_PROCESS,
    ) -> Validator:
        """Return the validator of a run with these settings."""
        steps, examples = settings.validation_steps, settings.validation_examples
        return cls(data, threat, steps, examples, settings.seed, process_group)

    def __call__(self, model: nn.Module, epoch: int) -> Scores:
        """Return the scores of one epoch's model; they do not depend on the number of processes."""
        count, seed = min(self.examples, len(self.data)), mix_seed(self.seed, epoch) % 2**31
        if self.process_group.count == 1:
            return self._score(model, slice(count), seed)
        starts = list(enumerate(range(0, count, BATCH_SIZE)))[self.process_group.rank :: self.process_group.count]
        own = [self._score(model, slice(at, min(at + BATCH_SIZE, count)), seed_at(seed, place)) for place, at in starts]
        right = [(round(one.clean * one.examples), round(one.robust * one.examples)) for one in own]
        clean, robust = map(
            sum, zip(*(pair for some in self.process_group.gathered(right) for pair in some), strict=True)
        )
        return Scores(clean / count, robust / count, count)

    def _score(self, model: nn.Module, rows: slice, seed: int) -> Scores:
        attack = attack_of(self.steps)
        batches = self.data.take(rows).batches()
        try:
            report = evaluate(model, batches, eps=self.threat.eps, norm=self.threat.norm, attacks=[attack], seed=seed)
        except OutOfMemoryError as error:
            raise OutOfMemoryError(
                f"{str(error).split(':')[0]}: the check after an epoch attacks {min(BATCH_SIZE, self.examples)} images "
                "at once; reduce training.validation_examples."
            ) from error
        return Scores(report["clean"], report[attack], report.examples)

    def class_shares(self) -> list[float]:
        """Return the share of each class among the examples."""
        labels = self.data.labels[: self.examples]
        return (torch.bincount(labels, minlength=self.data.num_classes).double() / len(labels)).tolist()


def hold_out(images: ImagesT, settings: TrainingSettings) -> tuple[ImagesT, ImagesT]:
    """Return training images without the validation images, and the validation images."""
    return split(images, settings.validation_share, settings.seed)


def validation_subset(held_out: Images, examples: int) -> ImageSet:
    """Return the images of the check, in memory: images on disk would be decoded for every check."""
    original = held_out.original if isinstance(held_out, MixedSet) else held_out
    part = original.take(slice(examples))
    return part.load() if isinstance(part, FileSet) else part
