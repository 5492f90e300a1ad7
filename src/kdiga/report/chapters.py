"""A chapter of the page: one data set and threat model, and each model in it once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kdiga.results.certificates import CertificateResult
from kdiga.results.evaluations import EvaluationResult, SuitabilityResult
from kdiga.results.explanations import ExplainedModel, ExplanationResult
from kdiga.results.runs import RunResult
from kdiga.results.shared import Accuracy, Conditions, FindingRecord, ModelIdentity

PLAIN = ("kd", "ce")  # methods by which no robustness is meant to come over


@dataclass(frozen=True)
class ReportedModel:
    """A model in a chapter.

    Args:
        name: short and its own.
        place: of its colour and marker; -1 for the teacher, None for those that figures show in grey or not at all.
        identity: what all its results say of it.
        run: that trained it; None if unknown.
        accuracy: measurements by attack, those on most images first.
        evaluations: on the chapter's data and threat model.
        elsewhere: evaluations at another eps, on the same data and norm.
        certificates: of it.
        explained: its part of an explanation; None for none.
        findings: about its numbers.
        taught_by: name of its teacher; None if unknown.
    """

    name: str
    place: int | None
    identity: ModelIdentity
    run: RunResult | None
    accuracy: Mapping[str, Sequence[Accuracy]]
    evaluations: Sequence[EvaluationResult]
    elsewhere: Sequence[EvaluationResult]
    certificates: Sequence[CertificateResult]
    explained: ExplainedModel | None
    findings: Sequence[FindingRecord]
    taught_by: str | None = None

    @property
    def method(self) -> str:
        """How it was trained; "" if unknown."""
        return self.run.method if self.run else ""

    @property
    def parameters(self) -> int | None:
        """How many it has; None if no file says."""
        return self.identity.parameters or (self.run.parameters if self.run else None)

    def of(self, attack: str | None) -> Accuracy | None:
        """Return its accuracy under an attack, on most images."""
        found = self.accuracy.get(attack or "", ())
        return found[0] if found else None


@dataclass(frozen=True)
class Chapter:
    """Models judged alike.

    Args:
        conditions: data set and threat model.
        teachers: whose students are here.
        teacher: the one that most students have; None if unknown.
        students: all others, most robust first.
        attack: by which robustness is told; None if none was run.
        explanations: under these conditions.
        suitabilities: under these conditions.
        certificates: under these conditions.
    """

    conditions: Conditions
    teachers: Sequence[ReportedModel]
    teacher: ReportedModel | None
    students: Sequence[ReportedModel]
    attack: str | None
    explanations: Sequence[ExplanationResult]
    suitabilities: Sequence[SuitabilityResult]
    certificates: Sequence[CertificateResult]

    @property
    def members(self) -> list[ReportedModel]:
        """Teachers, then students."""
        return [*self.teachers, *self.students]

    def named(self, name: str | None) -> ReportedModel | None:
        """Return the member of that name."""
        return next((member for member in self.members if member.name == name), None)
