"""How an experiment measures its models, and how it chooses coefficients: the sections that are not a recipe's."""

from __future__ import annotations

from dataclasses import dataclass

from kdiga.errors import InputError, unknown
from kdiga.evaluation import attack_by_name
from kdiga.models.sources.local import WHICH

COSTLY = "autoattack"
MOST_TRIALS = 1000


@dataclass(frozen=True)
class EvaluateSettings:
    """How every finished model is attacked.

    Raises:
        InputError: For values out of range or unknown names.
    """

    attacks: tuple[str, ...] = ("clean", "pgd-20", COSTLY)  # names among "clean", "fgsm", "pgd-STEPS" and "autoattack"
    examples: int | None = None  # number of test images, the first ones; None for all
    autoattack_examples: int | None = None  # the same for AutoAttack, which costs far more; None for ``examples``
    which: tuple[str, ...] = WHICH  # "best" (by validation), "last", or both
    seed: int = 0  # seed of the attacks' random starts, the same for every model

    def __post_init__(self) -> None:
        for name in self.attacks:
            attack_by_name(name)
        for name in ("examples", "autoattack_examples"):
            check_positive(name, getattr(self, name))
        for name in ("attacks", "which"):
            if not getattr(self, name):
                raise InputError(f"{name} was empty; give at least one.")
        for which in self.which:
            if which not in WHICH:
                raise unknown("which", which, WHICH)
        object.__setattr__(self, "attacks", tuple(name.strip().lower() for name in self.attacks))

    def examples_of(self, attack: str, available: int) -> int:
        """Return how many of the ``available`` test images an attack takes."""
        asked = self.autoattack_examples or self.examples if attack == COSTLY else self.examples
        return min(asked or available, available)


@dataclass(frozen=True)
class TuneSettings:
    """The budget of every method for choosing its coefficients.

    Raises:
        InputError: For values out of range.
    """

    trials: int = 8  # runs a method, the first with the coefficients as given, from 1 to 1000
    epochs: int | None = None  # epochs of each trial; None for the run's own

    def __post_init__(self) -> None:
        check_positive("trials", self.trials)
        check_positive("epochs", self.epochs)
        if self.trials > MOST_TRIALS:
            raise InputError(
                f"trials was {self.trials!s:.20}; at most {MOST_TRIALS:,} are drawn, a run of training each."
            )


def check_positive(name: str, value: int | None) -> None:
    """Raise an InputError for a number below 1."""
    if value is not None and value < 1:
        raise InputError(f"{name} was {value}; it must be at least 1.")
