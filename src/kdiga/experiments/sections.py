"""The sections of studies and claims that are not a recipe's: attacks, tuning, measurements and rules.

Each raises an InputError for values out of range and for unknown names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kdiga.analysis.worst_case import WorstCaseSearch
from kdiga.certification.lipschitz import Sampling
from kdiga.certification.smoothing import Noise
from kdiga.errors import InputError, check_at_least, check_known
from kdiga.evaluation import attack_by_name
from kdiga.models.sources.local import WHICH
from kdiga.types import ThreatModel

AUTOATTACK_VERSION = "standard"
COSTLY = "autoattack"
MOST_TRIALS = 1000


@dataclass(frozen=True)
class EvaluateSettings:
    """How every finished model is attacked."""

    attacks: tuple[str, ...] = ("clean", "pgd-20", COSTLY)  # names among "clean", "fgsm", "pgd-STEPS" and "autoattack"
    examples: int | None = None  # number of test images, the first ones; None for all
    autoattack_examples: int | None = None  # the same for AutoAttack, which costs far more; None for ``examples``
    which: tuple[str, ...] = WHICH  # "best" (by validation), "last", or both
    seed: int = 0  # seed of the attacks' random starts, the same for every model

    def __post_init__(self) -> None:
        for name in self.attacks:
            attack_by_name(name)
        check_at_least(1, examples=self.examples, autoattack_examples=self.autoattack_examples)
        for name in ("attacks", "which"):
            if not getattr(self, name):
                raise InputError(f"{name} was empty; give at least one.")
        for which in self.which:
            check_known("which", which, WHICH)
        object.__setattr__(self, "attacks", tuple(name.strip().lower() for name in self.attacks))

    def examples_of(self, attack: str, available: int) -> int:
        """Return how many of the ``available`` test images an attack takes."""
        asked = self.autoattack_examples or self.examples if attack == COSTLY else self.examples
        return min(asked or available, available)


@dataclass(frozen=True)
class TuneSettings:
    """The budget of every method for choosing its coefficients."""

    trials: int = 8  # runs a method, the first with the coefficients as given, from 1 to 1000
    epochs: int | None = None  # epochs of each trial; None for the run's own

    def __post_init__(self) -> None:
        check_at_least(1, trials=self.trials, epochs=self.epochs)
        if self.trials > MOST_TRIALS:
            raise InputError(
                f"trials was {self.trials!s:.20}; at most {MOST_TRIALS:,} are drawn, a run of training each."
            )


@dataclass(frozen=True)
class Coefficients(TuneSettings):
    """The one search for coefficients of every method, on one teacher and one student."""

    teacher: str | None = None  # label of the teacher; None for the first
    student: str | None = None  # label of the student; None for the first


@dataclass(frozen=True)
class Certification:
    """How each student's radii are compared with its teacher's; see ``kdiga certify``."""

    examples: int = 50  # number of test images, the first ones
    batches: int = 50  # batches of points, for CLEVER
    batch_size: int = 25  # points of a batch
    sigma: float = 0.12  # standard deviation of the noise of smoothing, pixels in [0, 1]
    samples: int = 1000  # samples of the noise that bound a probability
    selection_samples: int = 100  # samples of the noise that select the class
    alpha: float = 0.001  # probability of a wrong radius under smoothing, an example

    def __post_init__(self) -> None:
        check_at_least(1, examples=self.examples)
        Sampling(ThreatModel("l2", 1.0), self.batches, self.batch_size)
        Noise(self.sigma, self.samples, self.selection_samples, self.alpha)


@dataclass(frozen=True)
class Explaining:
    """How the bounds and their terms are measured; see ``kdiga explain``."""

    examples: int = 100  # number of test images, the first ones, no more than AutoAttack attacks
    steps: int = 40  # steps of each search for the ball's worst images
    restarts: int = 3  # restarts of each search

    def __post_init__(self) -> None:
        check_at_least(1, examples=self.examples)
        _ = self.search

    @property
    def search(self) -> WorstCaseSearch:
        """The search for the ball's worst images."""
        return WorstCaseSearch(self.steps, self.restarts)


@dataclass(frozen=True)
class Rules:
    """What decides a verdict; docs/claims.md says why these numbers."""

    kept: float = 0.9  # share of the teacher's robust accuracy at which robustness counts as preserved
    lost: float = 1.0  # percentage points of clean accuracy that a pre-trained student may lose
    gained: float = 5.0  # percentage points of robust accuracy that it has to gain
    covered: float = 0.9  # share of examples on which the student's certified radius has to reach the teacher's
    ranked: float = 0.5  # rank correlation with AutoAttack that a bound has to reach

    def __post_init__(self) -> None:
        for name, most in (("kept", 1.0), ("covered", 1.0), ("ranked", 1.0), ("lost", 100.0), ("gained", 100.0)):
            value = getattr(self, name)
            if not 0 < value <= most:
                raise InputError(f"{name} was {value!r}; it must be above 0 and at most {most:g}.")


@dataclass(frozen=True)
class Pretrained:
    """Students that start from weights which classify already."""

    students: dict[str, Any] | None = None  # student sections by label
    teachers: list[Any] | None = None  # labels of their teachers; None for all
    training: dict[str, Any] | None = None  # section laid over the recipe's
    methods: dict[str, Any] | None = None  # method sections by label, in place of the recipe's
    tune_trials: int | None = None  # trials of their search for coefficients; None for as many as the others
    tune_epochs: int | None = None  # epochs of each trial; None for the run's own
    at_most: float = 1.0  # largest loss of validation clean accuracy of the chosen trial, percentage points

    def __post_init__(self) -> None:
        check_at_least(1, tune_trials=self.tune_trials, tune_epochs=self.tune_epochs)
        if not 0 <= self.at_most <= 100:
            raise InputError(f"at_most was {self.at_most!r}; it is a number of points from 0 to 100.")
