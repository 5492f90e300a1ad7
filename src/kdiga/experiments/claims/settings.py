"""The sections of a claims recipe that are neither a run's nor a study's."""

from __future__ import annotations

from dataclasses import dataclass

from kdiga.analysis.worst_case import WorstCaseSearch
from kdiga.certification.lipschitz import Sampling
from kdiga.certification.smoothing import Noise
from kdiga.errors import InputError
from kdiga.experiments.settings import TuneSettings
from kdiga.types import ThreatModel


@dataclass(frozen=True)
class Coefficients(TuneSettings):
    """The one search for coefficients that every method gets, on one teacher and one student.

    Args:
        trials: runs a method, the first with the coefficients as given.
        epochs: of each trial; None for the run's own.
        teacher: that they learn from; None for the first.
        student: that learns; None for the first.
    """

    teacher: str | None = None
    student: str | None = None


@dataclass(frozen=True)
class Certification:
    """How each student's radii are held against its teacher's; see ``kdiga certify``.

    Args:
        examples: the first so many test images.
        batches: of points, for CLEVER.
        batch_size: points of a batch.
        sigma: of the noise of smoothing, pixels in [0, 1].
        samples: of the noise, that bound a probability.
        selection_samples: of the noise, that select the class.
        alpha: probability of a wrong radius under smoothing, an example.

    Raises:
        InputError: for values out of range.
    """

    examples: int = 50
    batches: int = 50
    batch_size: int = 25
    sigma: float = 0.12
    samples: int = 1000
    selection_samples: int = 100
    alpha: float = 0.001

    def __post_init__(self) -> None:
        _positive(self.examples)
        Sampling(ThreatModel("l2", 1.0), self.batches, self.batch_size)
        Noise(self.sigma, self.samples, self.selection_samples, self.alpha)


@dataclass(frozen=True)
class Explaining:
    """How the bounds and their pieces are measured; see ``kdiga explain``.

    Args:
        examples: the first so many test images, no more than AutoAttack sees.
        steps: of each search for the ball's worst images.
        restarts: of each search.

    Raises:
        InputError: for values out of range.
    """

    examples: int = 100
    steps: int = 40
    restarts: int = 3

    def __post_init__(self) -> None:
        _positive(self.examples)
        _ = self.search

    @property
    def search(self) -> WorstCaseSearch:
        """The search for the ball's worst images."""
        return WorstCaseSearch(self.steps, self.restarts)


@dataclass(frozen=True)
class Rules:
    """What decides a verdict; docs/claims.md says why these numbers.

    Args:
        kept: share of the teacher's robust accuracy at which robustness counts as preserved.
        lost: percentage points of clean accuracy that a pre-trained student may lose.
        gained: percentage points of robust accuracy that it has to gain.
        covered: share of examples on which the student's certified radius has to reach the teacher's.
        ranked: rank correlation with AutoAttack that a bound has to reach.

    Raises:
        InputError: for values out of range.
    """

    kept: float = 0.9
    lost: float = 1.0
    gained: float = 5.0
    covered: float = 0.9
    ranked: float = 0.5

    def __post_init__(self) -> None:
        for name, most in (("kept", 1.0), ("covered", 1.0), ("ranked", 1.0), ("lost", 100.0), ("gained", 100.0)):
            value = getattr(self, name)
            if not 0 < value <= most:
                raise InputError(f"{name} was {value!r}; it must be above 0 and at most {most:g}.")


def _positive(examples: int) -> None:
    if examples < 1:
        raise InputError(f"examples was {examples}; it must be at least 1.")
