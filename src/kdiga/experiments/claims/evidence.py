"""What the runs left, how much two models differ by it, and what a verdict is."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kdiga.data.file_set import FileSet
from kdiga.data.image_set import ImageSet
from kdiga.experiments.board import RunBoard, RunSpec, read_json, test_file
from kdiga.experiments.claims.plan import ClaimsGrid, Pair
from kdiga.experiments.sections import COSTLY
from kdiga.runs.fingerprints import fingerprint_of_images

Outcomes = dict[int | None, list[bool]]  # by seed, None for a model without seeds: whether each image is right
Verdict = Literal["supported", "contradicted", "undecided"]

RULE = (
    "The claim is supported if at least half of all cases support it and none contradicts it, contradicted if at least "
    "half contradict it and more contradict than support it, and undecided otherwise. A case that was not measured is "
    "undecided; a student that diverged is wrong on every image."
)


class Evidence:
    """Results of runs by method, pair and seed, read from their folders, and the test images of the attacks."""

    def __init__(self, grid: ClaimsGrid, board: RunBoard, test: ImageSet | FileSet) -> None:
        self.grid, self.board, self.available = grid, board, len(test)
        self._explained = fingerprint_of_images(test.take(slice(grid.explain.examples)))

    def run_specs(self, label: str, pair: Pair) -> list[RunSpec]:
        """Return the runs of a method on a pair, seed after seed; one without a teacher has one a student."""
        names = [f"{label}/{name}/seed-{seed}" for name in (pair.name, pair.student) for seed in self.grid.seeds]
        return [self.board.by_folder[name] for name in names if name in self.board.by_folder]

    def student(self, label: str, pair: Pair, attack: str = COSTLY) -> Outcomes | None:
        """Return for each seed that has ended whether each image is right under an attack; None while none has.

        A student that diverged is wrong on every image.
        """
        rows = Outcomes()
        for run_spec in self.run_specs(label, pair):
            state, seed = self.board.state(run_spec), run_spec.recipe.training.seed
            if state == "diverged":
                rows[seed] = [False] * self.grid.evaluation.examples_of(attack, self.available)
            elif state == "done":
                rows[seed] = self._outcomes(self.board.out / run_spec.folder, attack)
        return rows or None

    def one_model(self, folder: str, attack: str = COSTLY) -> Outcomes | None:
        """Return the same of a teacher or a start, which have no seeds."""
        run_spec = self.board.by_folder[folder]
        done = self.board.state(run_spec) == "done"
        return {None: self._outcomes(self.board.out / folder, attack)} if done else None

    def asked(self, label: str, pair: Pair, file: str) -> bool:
        """Return whether a file is to be measured of the first seed's student against the pair's teacher.

        A student without a teacher is compared with one teacher alone.
        """
        return any(
            (measurement.file, measurement.teacher) == (file, f"teachers/{pair.teacher}")
            for run_spec in self.run_specs(label, pair)[:1]
            for measurement in run_spec.after
        )

    def measured(self, label: str, pair: Pair, file: str) -> dict[str, Any] | None:
        """Return what was measured of the first seed's student; None where that is not done, or not asked for."""
        if not self.asked(label, pair, file):
            return None
        run_spec = self.run_specs(label, pair)[0]
        return read_json(self.board.out / run_spec.folder / file) if self.board.state(run_spec) == "done" else None

    def of_attacked(self, explanation: Mapping[str, Any]) -> bool:
        """Return whether an explanation is of the first test images, which are attacked first, too."""
        return explanation.get("data_fingerprint") == self._explained

    def diverged(self, label: str, pair: Pair, seeds: int | None = None) -> int:
        """Return how many seeds diverged, of all or of the first so many."""
        return sum(self.board.state(run_spec) == "diverged" for run_spec in self.run_specs(label, pair)[:seeds])

    def _outcomes(self, folder: Path, attack: str) -> list[bool]:
        report = read_json(test_file(folder, "best"))
        assert report is not None  # a finished run has one
        return report["correct"][attack]


# Effects


@dataclass(frozen=True)
class Effect:
    """A mean difference of outcomes."""

    mean: float  # mean difference, in [-1, 1]
    low: float  # lower end of its 95 % interval
    high: float  # upper end
    images: int  # number of images
    seeds: int  # number of students

    def to_list(self) -> list[float]:
        """Return mean and interval."""
        return [self.mean, self.low, self.high]


def effect(
    ours: Sequence[Sequence[bool]], others: Sequence[Sequence[bool]], share: float = 1.0, confidence: float = 0.95
) -> Effect:
    """Return the mean of ``ours - share * others`` with an interval over images and seeds.

    Images and seeds are crossed: every seed's student sees the same images. The variance of the mean is taken as
    the sum of the variance over images of the seeds' mean and the variance over seeds of the images' mean, which
    counts what is left of both twice and so errs on the wide side; degrees of freedom are Welch and Satterthwaite's.
    The interval counts two more images, half of one in each of the four cells of right and wrong (Agresti and Min,
    2005): without them, outcomes that never differ would claim to be certain.

    Args:
        ours: For each seed, whether each image is right.
        others: The same of the model that it is compared with; one row where that one has no seeds.
        share: Share of ``others`` that ``ours`` is compared with.
        confidence: Confidence of the interval, in (0, 1).

    >>> found = effect([[True] * 50 + [False] * 50], [[True] * 20 + [False] * 80])
    >>> [round(part, 2) for part in found.to_list()]
    [0.3, 0.2, 0.39]
    """
    differences: NDArray[np.float64] = np.asarray(ours, dtype=float) - share * np.asarray(others, dtype=float)
    seeds, images = differences.shape
    by_image = differences.mean(0)
    padded = np.concatenate([by_image, [1.0, -share, 1.0 - share, 0.0]])
    weights = np.concatenate([np.ones(images), np.full(4, 0.5)])
    total = float(weights.sum())
    middle = float((weights * padded).sum() / total)
    over_images = float((weights * (padded - middle) ** 2).sum() / (total - 1)) / total
    over_seeds = float(differences.mean(1).var(ddof=1)) / seeds if seeds > 1 else 0.0
    reach = math.sqrt(over_images + over_seeds)
    freedom = (over_images + over_seeds) ** 2 / (
        over_images**2 / max(images - 1, 1) + (over_seeds**2 / (seeds - 1) if seeds > 1 else 0.0)
    )
    from scipy.stats import t  # here, because scipy.stats loads slowly

    quantile = float(t.ppf((1 + confidence) / 2, freedom))
    return Effect(float(by_image.mean()), middle - quantile * reach, middle + quantile * reach, images, seeds)


def compared(ours: Outcomes | None, others: Outcomes | None, share: float = 1.0) -> Effect | None:
    """Return how much two models differ on the images that both were attacked on; None where one is missing.

    Of two that have seeds, the seeds count that both have.
    """
    if ours is None or others is None:
        return None
    of_seed = others.get if None not in others else lambda _: others[None]
    pairs = [(row, other) for seed, row in ours.items() if (other := of_seed(seed)) is not None]
    if not pairs:
        return None
    images = min(len(row) for pair in pairs for row in pair)
    return effect([row[:images] for row, _ in pairs], [row[:images] for _, row in pairs], share)


def accuracy(outcomes: Outcomes | None) -> float | None:
    """Return the mean accuracy over seeds and images."""
    if outcomes is None:
        return None
    return sum(map(sum, outcomes.values())) / sum(map(len, outcomes.values()))


def listed(found: Effect | None) -> list[float] | None:
    """Return an effect as plain data."""
    return None if found is None else found.to_list()


# Verdicts


def at_least(low: float, high: float, *, bar: float = 0.0) -> Verdict:
    """Return whether a quantity with this interval reaches a bar.

    >>> at_least(0.1, 0.2), at_least(-0.2, -0.1), at_least(-0.1, 0.1)
    ('supported', 'contradicted', 'undecided')
    """
    if low >= bar:
        return "supported"
    return "contradicted" if high < bar else "undecided"


def opposite(verdict: Verdict) -> Verdict:
    """Return the verdict on the opposite statement."""
    turned: dict[Verdict, Verdict] = {"supported": "contradicted", "contradicted": "supported"}
    return turned.get(verdict, verdict)


def both(one: Verdict, other: Verdict) -> Verdict:
    """Return the verdict on two things that have to hold together."""
    if "contradicted" in (one, other):
        return "contradicted"
    return "supported" if one == other == "supported" else "undecided"


def overall(cases: Sequence[Verdict]) -> Verdict:
    """Return the verdict on a claim; see :data:`RULE`.

    >>> overall(["supported", "supported", "undecided"]), overall(["supported", "contradicted"])
    ('supported', 'undecided')
    >>> overall(["contradicted", "undecided"]), overall([])
    ('contradicted', 'undecided')
    """
    count = Counter(cases)
    if count["contradicted"] * 2 >= len(cases) and count["contradicted"] > count["supported"]:
        return "contradicted"
    if count["supported"] * 2 >= len(cases) and count["supported"] and not count["contradicted"]:
        return "supported"
    return "undecided"


def counted(cases: Sequence[Verdict]) -> dict[str, int]:
    """Return how many cases there are of each verdict."""
    count = Counter(cases)
    return {word: count[word] for word in ("supported", "contradicted", "undecided")}
