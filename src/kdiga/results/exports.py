"""``export.json``: a model in other file formats, with size, speed and accuracy of each file."""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

from pydantic import BeforeValidator, model_validator

from kdiga.results.fields import Count, EmptyAsNone, Interval, Number, ResultModel, Share, Text, check_around, fields
from kdiga.results.shared import JudgedFile

Lenient = BeforeValidator(fields)


class AgreementRecord(ResultModel):
    """How closely a file's outputs agree with the model's."""

    same_class: Share


class LatencyRecord(ResultModel):
    """Median, lower and upper quartile of the time of one batch, in milliseconds."""

    median: Number
    low: Number
    high: Number

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not 0 <= self.low <= self.median <= self.high:
            raise ValueError(f"has quartiles {self.low:g} and {self.high:g} around {self.median:g}")
        return self


class FormatRecord(ResultModel):
    """An exported file; "pytorch" is the model itself. ``same_as`` names the format that it equals bit by bit."""

    bytes: Count = None
    runtime: Text = ""
    same_as: Text = ""
    agreement: Annotated[AgreementRecord | None, EmptyAsNone] = None
    accuracy: Annotated[dict[str, Share], Lenient] = {}
    interval_95: Annotated[dict[str, Interval], Lenient] = {}
    examples: Annotated[dict[str, Count], Lenient] = {}
    latency_ms: Annotated[dict[str, LatencyRecord], Lenient] = {}

    @model_validator(mode="after")
    def _check(self) -> Self:
        for attack, value in self.accuracy.items():
            if attack not in self.interval_95:
                raise ValueError(f"has no interval_95 under {attack}")
            check_around(value, self.interval_95[attack], f"interval_95 under {attack}")
            if not self.examples.get(attack):
                raise ValueError(f"does not say on how many images accuracy under {attack} was measured")
        return self


class ExportResult(JudgedFile):
    """An exported model."""

    KIND: ClassVar[str] = "export"

    formats: dict[str, FormatRecord]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.formats:
            raise ValueError("it names no format")
        return self
