"""The sections of a claims recipe that are neither a run's nor a study's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kdiga.analysis.worst_case import WorstCaseSearch
from kdiga.certification.lipschitz import Sampling
from kdiga.certification.smoothing import Noise
from kdiga.errors import InputError
from kdiga.experiments.settings import EvaluateSettings, TuneSettings, check_positive
from kdiga.types import ThreatModel


@dataclass(frozen=True)
class Coefficients(TuneSettings):
    """The one search for coefficients of every method, on one teacher and one student.

    Args:
        trials: Runs a method, the first with the coefficients as given.
        epochs: Epochs of each trial; None for the run's own.
        teacher: Label of the teacher; None for the first.
        student: Label of the student; None for the first.
    """

    teacher: str | None = None
    student: str | None = None


@dataclass(frozen=True)
class Certification:
    """How each student's radii are compared with its teacher's; see ``kdiga certify``.

    Raises:
        InputError: For values out of range.
    """

    examples: int = 50  # number of test images, the first ones
    batches: int = 50  # batches of points, for CLEVER
    batch_size: int = 25  # points of a batch
    sigma: float = 0.12  # standard deviation of the noise of smoothing, pixels in [0, 1]
    samples: int = 1000  # samples of the noise that bound a probability
    selection_samples: int = 100  # samples of the noise that select the class
    alpha: float = 0.001  # probability of a wrong radius under smoothing, an example

    def __post_init__(self) -> None:
        check_positive("examples", self.examples)
        Sampling(ThreatModel("l2", 1.0), self.batches, self.batch_size)
        Noise(self.sigma, self.samples, self.selection_samples, self.alpha)


@dataclass(frozen=True)
class Explaining:
    """How the bounds and their terms are measured; see ``kdiga explain``.

    Raises:
        InputError: For values out of range.
    """

    examples: int = 100  # number of test images, the first ones, no more than AutoAttack attacks
    steps: int = 40  # steps of each search for the ball's worst images
    restarts: int = 3  # restarts of each search

    def __post_init__(self) -> None:
        check_positive("examples", self.examples)
        _ = self.search

    @property
    def search(self) -> WorstCaseSearch:
        """The search for the ball's worst images."""
        return WorstCaseSearch(self.steps, self.restarts)


@dataclass(frozen=True)
class Rules:
    """What decides a verdict; docs/claims.md says why these numbers.

    Raises:
        InputError: For values out of range.
    """

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
    """Students that start from weights which classify already.

    Raises:
        InputError: For values out of range.
    """

    students: dict[str, Any] | None = None  # student sections by label
    teachers: list[Any] | None = None  # labels of their teachers; None for all
    training: dict[str, Any] | None = None  # section laid over the recipe's
    methods: dict[str, Any] | None = None  # method sections by label, in place of the recipe's
    tune_trials: int | None = None  # trials of their search for coefficients; None for as many as the others
    tune_epochs: int | None = None  # epochs of each trial; None for the run's own
    at_most: float = 1.0  # largest loss of validation clean accuracy of the chosen trial, percentage points

    def __post_init__(self) -> None:
        check_positive("tune_trials", self.tune_trials)
        check_positive("tune_epochs", self.tune_epochs)
        if not 0 <= self.at_most <= 100:
            raise InputError(f"at_most was {self.at_most!r}; it is a number of points from 0 to 100.")


@dataclass(frozen=True)
class Pair:
    """Labels of a teacher and a student; a pre-trained student starts from weights that classify already."""

    teacher: str
    student: str
    pretrained: bool = False

    @property
    def name(self) -> str:
        """Name in folders and tables."""
        return f"{self.teacher}-to-{self.student}"


@dataclass(frozen=True)
class ClaimsGrid:
    """What is crossed, how it is measured, and the rules that decide.

    ``methods`` are names by label, ``judged`` the labels whose claims are tested, the paper's own first.
    """

    methods: Mapping[str, str]
    judged: tuple[str, ...]
    pairs: tuple[Pair, ...]
    seeds: tuple[int, ...]
    evaluation: EvaluateSettings
    tune: Coefficients | None
    certify: Certification
    explain: Explaining
    rules: Rules

    def label_of(self, method: str) -> str:
        """Return the label of a method that is not judged, such as kd."""
        return next(label for label, name in self.methods.items() if name == method)

    def pairs_of(self, *, pretrained: bool) -> list[Pair]:
        """Return the pairs with or without pre-trained students."""
        return [pair for pair in self.pairs if pair.pretrained == pretrained]

    def first_pairs(self, *, pretrained: bool) -> list[Pair]:
        """Return the first pair of each student."""
        found: dict[str, Pair] = {}
        for pair in self.pairs_of(pretrained=pretrained):
            found.setdefault(pair.student, pair)
        return list(found.values())

    @property
    def judged_first(self) -> list[str]:
        """All labels, the judged ones first."""
        return list(dict.fromkeys([*self.judged, *self.methods]))
