"""What an explanation holds: a teacher and its students, measured alike, and what follows from the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from kdiga.analysis.bounds import Bound
from kdiga.analysis.ranking import Ranking, rank
from kdiga.analysis.resampling import Interval, mean_interval, ratio_interval
from kdiga.statistics import clopper_pearson
from kdiga.types import ThreatModel


@dataclass(frozen=True)
class GradientAgreement:
    """A student's input gradients beside its teacher's.

    Args:
        cosine: of each example; None where one of the two is zero.
        distance: dual norm of each difference, nats per pixel unit.
    """

    cosine: Sequence[float | None]
    distance: Sequence[float]

    @property
    def defined(self) -> list[float]:
        """The cosines there are."""
        return [value for value in self.cosine if value is not None]


@dataclass(frozen=True)
class Explained:
    """One model's measures, one value an example.

    Args:
        name: a short one.
        clean: whether each example is right.
        robust: whether it is still right under the attack.
        notes: what the attack found suspicious.
        linearity: gamma, the largest remainder found, in nats.
        gradient_norm: dual norm of the input gradient, nats per pixel unit.
        agreement: with the teacher; None for the teacher itself.
        bounds: "student" and "transfer"; none for the teacher.
    """

    name: str
    clean: Sequence[bool]
    robust: Sequence[bool]
    notes: Sequence[str]
    linearity: Sequence[float]
    gradient_norm: Sequence[float]
    agreement: GradientAgreement | None = None
    student_bound: Bound | None = None
    transfer_bound: Bound | None = None

    @property
    def zero_gradients(self) -> int:
        """Number of examples whose input gradient is exactly zero."""
        return sum(norm == 0 for norm in self.gradient_norm)

    def to_dict(self, attack: str, seed: int) -> dict[str, Any]:
        """Return means, their intervals and the values as plain data."""
        return {
            "role": "teacher" if self.agreement is None else "student",
            "name": self.name,
            "clean": fmean(self.clean),
            "robust": {
                "attack": attack,
                "accuracy": fmean(self.robust),
                "interval_95": list(clopper_pearson(sum(self.robust), len(self.robust))),
                "notes": list(self.notes),
            },
            "correct": {"clean": [int(right) for right in self.clean], attack: [int(right) for right in self.robust]},
            "linearity": {
                "mean": fmean(self.linearity),
                "interval_95": plain(mean_interval(self.linearity, seed)),
                "values": list(self.linearity),
            },
            "gradient": {"norm": fmean(self.gradient_norm), "zero": self.zero_gradients} | self._agreement(seed),
        } | (
            {}
            if self.student_bound is None or self.transfer_bound is None
            else {"bounds": {"student": self.student_bound.to_dict(), "transfer": self.transfer_bound.to_dict()}}
        )

    def _agreement(self, seed: int) -> dict[str, Any]:
        if self.agreement is None:
            return {}
        defined = self.agreement.defined
        return {
            "cosine": fmean(defined) if defined else None,
            "cosine_interval_95": plain(mean_interval(defined, seed)) if defined else None,
            "cosine_undefined": len(self.agreement.cosine) - len(defined),
            "distance": fmean(self.agreement.distance),
            "cosine_values": list(self.agreement.cosine),
            "distance_values": list(self.agreement.distance),
        }


@dataclass(frozen=True)
class Explanation:
    """A teacher and its students.

    Args:
        threat: the ball.
        attack: that robust accuracy is measured by.
        seed: of attacks and resamples.
        num_classes: of all models.
        teacher: first.
        students: at least one.
    """

    threat: ThreatModel
    attack: str
    seed: int
    num_classes: int
    teacher: Explained
    students: Sequence[Explained]

    @property
    def teacher_is_robust(self) -> bool:
        """Whether the teacher's robust accuracy is above chance, its whole interval: else there is none to pass on."""
        low, _ = clopper_pearson(sum(self.teacher.robust), len(self.teacher.robust))
        return low > 1 / self.num_classes

    def kept(self, student: Explained) -> float | None:
        """Return the student's robust accuracy over the teacher's; None where the teacher has none."""
        return fmean(student.robust) / fmean(self.teacher.robust) if self.teacher_is_robust else None

    def kept_interval(self, student: Explained) -> Interval | None:
        """Return its 95 % interval, over images."""
        return ratio_interval(student.robust, self.teacher.robust, self.seed) if self.teacher_is_robust else None

    def rankings(self) -> list[Ranking]:
        """Return how each bound and each of its pieces ranks the students against the attack."""
        promises = dict[str, list[Sequence[float | None]]]()
        for student in self.students:
            for name, values in _promises(student).items():
                promises.setdefault(name, []).append(values)
        return rank(promises, [student.robust for student in self.students], self.seed)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data, the teacher first among the models."""
        from kdiga.analysis.diagnosis import diagnose
        from kdiga.analysis.sentences import reasons_of, transfer_of

        models = [self.teacher.to_dict(self.attack, self.seed)]
        for student in self.students:
            kept = {
                "robustness_kept": self.kept(student),
                "robustness_kept_interval_95": plain(self.kept_interval(student)),
            }
            models.append(student.to_dict(self.attack, self.seed) | kept)
        return {
            "examples": len(self.teacher.clean),
            "threat": {"norm": self.threat.norm, "eps": self.threat.eps},
            "attack": self.attack,
            "seed": self.seed,
            "models": models,
            "ranking": [ranking.to_dict() for ranking in self.rankings()],
            "findings": [finding.to_dict() for finding in diagnose(self)],
            "sentences": transfer_of(self),
            "reasons": reasons_of(self),
        }


def plain(interval: Interval | None) -> list[float] | None:
    """Return an interval as JSON holds it."""
    return None if interval is None else list(interval)


def _promises(student: Explained) -> dict[str, Sequence[float | None]]:
    assert student.agreement is not None
    assert student.student_bound is not None
    assert student.transfer_bound is not None
    smaller_is_better = {
        "student bound": student.student_bound.values,
        "transfer bound": student.transfer_bound.values,
        "linearity": student.linearity,
        "gradient distance": student.agreement.distance,
        "gradient norm": student.gradient_norm,
        "measured loss change": student.student_bound.measured,
    }
    promises: dict[str, Sequence[float | None]] = {
        name: [-value for value in values] for name, values in smaller_is_better.items()
    }
    return promises | {"cosine": student.agreement.cosine}
