"""What a test of claims crosses: methods, and pairs of a teacher and a student."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kdiga.experiments.sections import Certification, Coefficients, EvaluateSettings, Explaining, Rules


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
