"""``study.json``, ``curve.json`` and ``claims.json``: several runs compared."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field, FiniteFloat

from kdiga.results.fields import Interval, Number, ResultModel, Share
from kdiga.results.shared import FileModel, ThreatRecord

LEAST = 1e-9  # least minutes or passes above 0, which are drawn on a logarithmic axis


def _cost(value: float) -> float:
    if value != 0 and value < LEAST:
        raise ValueError(f"is {value!r:.40}, less than any run takes")
    return value


Cost = Annotated[Number, AfterValidator(_cost)]
Effect = Annotated[list[Number], Field(min_length=3, max_length=3)]  # a difference, and its 95 % interval


class DataRecord(ResultModel):
    """The data set that all runs share."""

    name: str
    training_images: Number


class RunSummary(ResultModel):
    """A run of several; fields are None until the run ends."""

    folder: str
    seed: Any = None
    status: str
    error: str | None = None
    epochs: Any = None
    best_epoch: Any = None
    parameters: Number | None = None
    minutes: Cost | None = None
    passes: dict[str, Cost | None] | None = None
    date: str | None = None
    hardware: dict[str, Any] | None = None

    def passes_of(self, role: str) -> float | None:
        """Return forward and backward passes of "student" or "teacher"; None if they were not counted."""
        counts = [(self.passes or {}).get(f"{role}_{way}") for way in ("forwards", "backwards")]
        return None if None in counts else sum(count for count in counts if count is not None)


class SeveralRuns(FileModel):
    """What results over several runs hold; ``attacks`` has the number of test images by attack."""

    title: str = ""
    command: str = ""
    data: DataRecord
    threat: ThreatRecord
    attacks: Annotated[dict[str, Number], Field(min_length=1)]
    seeds: list[Any]
    done: Number
    total: Number


class StudyRun(RunSummary):
    """A run of a study; accuracy by weights ("best", "last") and attack."""

    accuracy: dict[str, dict[str, Share]]


class TuningChoice(ResultModel):
    """The trial that tuning chose; ``robust`` is None if every trial diverged."""

    coefficients: dict[str, Number]
    robust: Number | None = None


class TuningRecord(ResultModel):
    """Trials of coefficients on validation images."""

    trials: list[Any] = []
    chosen: TuningChoice | None = None


class StudyEntry(ResultModel):
    """A method or teacher of a study, with its runs."""

    label: str
    method: str = ""
    runs: list[StudyRun]
    tuning: TuningRecord | None = None


class StudyResult(SeveralRuns):
    """Methods compared over seeds."""

    KIND: ClassVar[str] = "study"

    which: Annotated[list[str], Field(min_length=1)]
    teachers: list[StudyEntry]
    methods: list[StudyEntry]

    @property
    def entries(self) -> list[tuple[str, StudyEntry]]:
        """Every entry with its role, "teacher" or "method"; teachers first."""
        return [("teacher", one) for one in self.teachers] + [("method", one) for one in self.methods]


class AttackedRecord(ResultModel):
    """Accuracies of a run, by attack."""

    accuracy: dict[str, Share]
    examples: dict[str, Number]
    interval_95: dict[str, Interval] = {}


class CurveRun(RunSummary):
    """A run of a curve; changes are differences from the start on the same images."""

    test: AttackedRecord | None = None
    validation: AttackedRecord | None = None
    confirmed: AttackedRecord | None = None
    test_change: dict[str, Effect] | None = None
    validation_change: dict[str, Effect] | None = None
    confirmed_change: dict[str, Effect] | None = None


class CurvePoint(ResultModel):
    """Runs with one value of the coefficient, which may be as large as a float; None for the start."""

    value: FiniteFloat | None = None
    runs: list[CurveRun]


class CurveAnswer(ResultModel):
    """The point that was chosen, or why none was."""

    settled: bool
    achieved: bool
    value: FiniteFloat | None = None
    why: str | None = None


class CurveResult(SeveralRuns):
    """Robust against clean accuracy as a coefficient varies."""

    KIND: ClassVar[str] = "curve"

    key: str
    method: str
    student: str
    validation_attack: str
    at_most: Number
    start: CurvePoint
    points: list[CurvePoint]
    answer: CurveAnswer

    @property
    def parts(self) -> list[CurvePoint]:
        """The start, then every point."""
        return [self.start, *self.points]


class ClaimsRun(RunSummary):
    """A run of a test of claims; accuracy by attack."""

    label: str = ""  # of its method, or teacher
    accuracy: dict[str, Share] | None = None
    attack_minutes: Number | None = None
    history: list[tuple[Number, Share, Share]] = []  # epoch, from 1, and validation accuracy: clean, and under PGD


class PairRecord(ResultModel):
    """A teacher and a student."""

    teacher: str
    student: str
    pretrained: bool


class ClaimRow(ResultModel):
    """A line of a claim's table; each claim has some of the fields."""

    method: str
    teacher: str
    student: str
    verdict: str = ""
    diverged: Number = 0
    # Claims a to c: accuracies and their differences.
    clean: Number | None = None
    robust: Number | None = None
    teacher_robust: Number | None = None
    plain_clean: Number | None = None
    plain_robust: Number | None = None
    start_clean: Number | None = None
    start_robust: Number | None = None
    against_share: Effect | None = None
    against_teacher: Effect | None = None
    against_plain: Effect | None = None
    gained: Effect | None = None
    kept: Effect | None = None
    # Claim d: certified radii.
    kind: str = ""
    compared: Number | None = None
    share: Number | None = None
    interval: Interval | None = None
    median_radius: Number | None = None
    median_teacher_radius: Number | None = None
    rho_over_lipschitz: Number | None = None
    guaranteed_over_measured: Number | None = None
    aligned: Number | None = None
    share_of_aligned: Number | None = None
    # Claim e: bounds.
    student_mean: Number | None = None
    transfer_mean: Number | None = None
    student_tightness: Number | None = None
    transfer_tightness: Number | None = None
    student_violations: Number = 0
    transfer_violations: Number = 0


class CorrelationRecord(ResultModel):
    """Rank correlation of a measure with robust accuracy, over students."""

    spearman: Number | None = None
    interval_95: Interval | None = None
    students: Number = 0


class ClaimRecord(ResultModel):
    """What became of one claim."""

    rows: list[ClaimRow]
    methods: list[str]
    verdict: str
    verdicts: dict[str, str]
    counts: dict[str, dict[str, Number]] = {}
    rankings: dict[str, dict[str, CorrelationRecord]] = {}


class ValidationRecord(ResultModel):
    """Accuracies on validation images."""

    clean: Number
    robust: Number


class SearchTrial(ResultModel):
    """A trial of coefficients; ``best`` is None if it has not ended."""

    status: str
    best: ValidationRecord | None = None


class SearchRecord(ResultModel):
    """A search for coefficients."""

    search: str
    trials: list[SearchTrial]
    coefficients: dict[str, Number] | None = None


class ClaimsResult(SeveralRuns):
    """The paper's claims, tested."""

    KIND: ClassVar[str] = "claims"

    methods: dict[str, Any]
    judged: Annotated[list[str], Field(min_length=1)]
    pairs: list[PairRecord]
    rules: dict[str, Any]
    certify: dict[str, Any]
    explain: dict[str, Any]
    runs: list[ClaimsRun]
    coefficients: list[SearchRecord]
    claims: dict[str, ClaimRecord]
