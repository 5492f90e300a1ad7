"""``evaluation.json``, a run's ``best-test.json`` and ``last-test.json``, and ``suitability.json``."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Annotated, ClassVar, Self

from pydantic import model_validator

from kdiga.display import Displayed, Summary
from kdiga.results.fields import (
    Interval,
    Lenient,
    NoneAsEmpty,
    Number,
    Outcomes,
    ResultModel,
    Share,
    Text,
    check_around,
)
from kdiga.results.shared import Accuracy, AccuracyCurve, FindingRecord, Findings, JudgedFile, command_of


class SweepRecord(ResultModel):
    """Accuracy at several eps."""

    attack: Text = "an attack"
    eps: list[Number]
    accuracy: list[Share]
    interval_95: Annotated[list[Interval], NoneAsEmpty] = []

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.eps or len(self.eps) != len(self.accuracy) or len(self.interval_95) not in (0, len(self.eps)):
            raise ValueError("has not one accuracy and one interval an eps")
        return self

    @property
    def curve(self) -> AccuracyCurve:
        """Accuracy against eps."""
        intervals = tuple((low, high) for low, high in self.interval_95)
        return AccuracyCurve(tuple(self.eps), tuple(self.accuracy), intervals, self.attack)


class WorstClassRecord(ResultModel):
    """The class with the lowest accuracy under one attack."""

    label: int
    accuracy: Share
    examples: int
    name: Text = ""


class CorruptionRecord(ResultModel):
    """Accuracy under common corruptions, by corruption at severity 1 to 5."""

    strengths_of: Text = ""
    mean: Share
    interval_95: Interval | None = None
    worst_class: WorstClassRecord | None = None
    accuracy: dict[str, list[Share]]

    @property
    def means(self) -> dict[str, float]:
        """Mean over severities, by corruption."""
        return {name: sum(found) / len(found) for name, found in self.accuracy.items() if found}


class EvaluationResult(JudgedFile):
    """An attacked model: accuracy, interval and outcomes by attack."""

    KIND: ClassVar[str] = "evaluation"

    version: Text = ""
    accuracy: dict[str, Share]
    interval_95: Annotated[dict[str, Interval | None], Lenient] = {}
    worst_class: Annotated[dict[str, WorstClassRecord], Lenient] = {}
    seconds: Annotated[dict[str, Number], Lenient] = {}
    notes: Annotated[dict[str, list[Text]], Lenient] = {}
    stages: Annotated[dict[str, dict[str, Share]], Lenient] = {}
    correct: Annotated[dict[str, Outcomes | None], Lenient] = {}
    findings: Findings = []
    sweep: SweepRecord | None = None
    corruptions: CorruptionRecord | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.accuracy:
            raise ValueError("it holds no accuracy")
        for attack, value in self.accuracy.items():
            correct, interval = self.correct.get(attack), self.interval_95.get(attack)
            if correct is not None and not correct:
                raise ValueError(f"correct under {attack} is of no image")
            if not correct and not self.examples:
                raise ValueError(f"it does not say on how many images accuracy under {attack} was measured")
            if correct and abs(sum(correct) / len(correct) - value) > 1e-6:
                right = f"{sum(correct):g} of the {len(correct)} images are marked right"
                raise ValueError(f"accuracy under {attack} is {value:g}, but {right}")
            if interval is not None:
                check_around(value, interval, f"interval_95 under {attack}")
        return self

    @cached_property
    def measured(self) -> dict[str, Accuracy]:
        """Accuracy with interval and images, by attack."""
        found = {
            attack: self.accuracy_of(value, self.interval_95.get(attack), self.correct.get(attack))
            for attack, value in self.accuracy.items()
        }
        worst = {attack: one.accuracy for attack, one in self.worst_class.items()}
        return {attack: replace(one, worst_class=worst.get(attack)) for attack, one in found.items()}

    @property
    def open_findings(self) -> list[FindingRecord]:
        """The findings; a warning of saturated logits is answered by AutoAttack, which attacks the margin as well."""
        if "autoattack" not in self.accuracy:
            return self.findings
        return [
            found.model_copy(update={"verdict": "passed"})
            if (found.name, found.verdict) == ("saturation", "warning")
            else found
            for found in self.findings
        ]

    @property
    def equal_command(self) -> str:
        """A command that measures the same."""
        return command_of(
            "evaluate",
            self.model or "MODEL",
            which=self.which or "best",
            norm=self.threat.norm,
            eps=self.threat.eps,
            attacks=",".join(self.accuracy),
            examples=max((len(found) for found in self.correct.values() if found), default=self.examples or 0),
            seed=self.seed or 0,
        )


class SuitabilityResult(Displayed, JudgedFile):
    """Whether a teacher is worth distilling."""

    KIND: ClassVar[str] = "suitability"

    verdict: Text = ""
    sentence: Text = ""
    findings: Findings = []

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.summary:
            raise ValueError("it holds no verdict")
        return self

    @property
    def summary(self) -> str:
        """Verdict in a sentence, or in a word in older files."""
        return self.sentence or self.verdict

    def _summary(self) -> Summary:
        rows = [{"check": one.name, "verdict": one.verdict, "found": one.message} for one in self.findings]
        shown = [row for row in rows if row["verdict"] != "passed"]
        return Summary(f"{self.model}, {self.summary}", rows, shown=shown or rows[:0], bars="verdict")
