"""Held-out training images, and the check after an epoch: clean and PGD accuracy on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from kdiga.data import FileSet, Images, ImageSet, MixedSet, split
from kdiga.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from kdiga.errors import OutOfMemoryError
from kdiga.evaluation.measure import BATCH_SIZE, measure
from kdiga.evaluation.stages import AttackSettings, seed_at
from kdiga.model_state import mix_seed
from kdiga.training.settings import Selection, TrainingSettings
from kdiga.types import ThreatModel

ImagesT = TypeVar("ImagesT", bound=Images)


@dataclass(frozen=True)
class Scores:
    """Validation accuracies in [0, 1], and the counts behind them: by class, correct examples and all examples."""

    clean: float
    robust: float
    examples: int
    by_class: tuple[tuple[int, int], ...] = ()

    def by(self, select: Selection) -> float:
        """Return the score for the choice of the best checkpoint."""
        return {"robust": self.robust, "clean": self.clean, "mean": (self.clean + self.robust) / 2}[select]


def attack_of(steps: int) -> str:
    """Return the name of the check's attack with a number of steps."""
    return f"pgd-{steps}" if steps > 1 else "fgsm"


@dataclass(frozen=True)
class Validator:
    """Scores a model on ``examples`` of a validation set, at most.

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
        if len(data) > examples:
            data = data.take(stratified(data.labels, examples))
        return cls(data, threat, steps, examples, settings.seed, process_group)

    def __call__(self, model: nn.Module, epoch: int) -> Scores:
        """Return the scores of one epoch's model; they do not depend on the number of processes."""
        count, seed = min(self.examples, len(self.data)), mix_seed(self.seed, epoch) % 2**31
        if self.process_group.count == 1:
            return self._score(model, slice(count), seed)
        starts = list(enumerate(range(0, count, BATCH_SIZE)))[self.process_group.rank :: self.process_group.count]
        own = [self._score(model, slice(at, min(at + BATCH_SIZE, count)), seed_at(seed, place)) for place, at in starts]
        right = [(round(one.clean * one.examples), round(one.robust * one.examples), one.by_class) for one in own]
        clean, robust, by_class = zip(
            *(one for some in self.process_group.gathered(right) for one in some), strict=True
        )
        joined = torch.tensor(by_class).sum(0).tolist()
        return Scores(sum(clean) / count, sum(robust) / count, count, tuple((one, all_) for one, all_ in joined))

    def _score(self, model: nn.Module, rows: slice, seed: int) -> Scores:
        attack = attack_of(self.steps)
        batches, labels = self.data.take(rows).batches(), self.data.labels[rows].cpu()
        try:
            report = measure(model, batches, AttackSettings(self.threat, seed, BATCH_SIZE), [attack])
        except OutOfMemoryError as error:
            raise OutOfMemoryError(
                f"{str(error).split(':')[0]}: the check after an epoch attacks {min(BATCH_SIZE, self.examples)} images "
                "at once; reduce training.validation_examples."
            ) from error
        right = labels[torch.tensor(report.results["clean"].correct)]
        counts = [part.bincount(minlength=self.data.num_classes).tolist() for part in (right, labels)]
        return Scores(report["clean"], report[attack], report.examples, tuple(zip(*counts, strict=True)))


def hold_out(images: ImagesT, settings: TrainingSettings) -> tuple[ImagesT, ImagesT]:
    """Return training images without the validation images, and the validation images."""
    return split(images, settings.validation_share, settings.seed)


def stratified(labels: Tensor, count: int) -> Tensor:
    """Return the rows of ``count`` examples with the class shares of all, int64 (count,), in a mixed order.

    Their beginning has about the same shares, too. The choice depends on the labels only.
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    place = torch.empty(len(labels), dtype=torch.float64)
    for number in labels.cpu().unique().tolist():
        rows = order[labels.cpu()[order] == number]
        place[rows] = (torch.arange(len(rows)) + 0.5).double() / len(rows)
    return place.argsort(stable=True)[:count]


def validation_subset(held_out: Images, examples: int) -> ImageSet:
    """Return the images of the check, in memory: images on disk would be decoded for every check."""
    original = held_out.original if isinstance(held_out, MixedSet) else held_out
    part = original if len(original) <= examples else original.take(stratified(original.labels, examples))
    return part.load() if isinstance(part, FileSet) else part
