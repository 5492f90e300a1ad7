"""``export.json``: a model in other file formats, with size, speed and accuracy of each file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar, Self

from pydantic import model_validator

from kdiga.results.attack_names import attack_name
from kdiga.results.fields import Count, EmptyAsNone, Interval, Lenient, Number, ResultModel, Share, Text, check_around
from kdiga.results.shared import JudgedFile
from kdiga.statistics import percent, percent_interval

NOTHING = "–"


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


class FormatTable:
    """Size, speed and accuracy of each format, as the report and the model card show them.

    ``rows`` has the text and smaller text of each cell under ``head``, without the first column; ``images`` counts each
    attack's images.
    """

    def __init__(self, formats: Mapping[str, FormatRecord]) -> None:
        entries = list(formats.values())
        self.attacks = list(dict.fromkeys(name for one in entries for name in one.accuracy))
        self.batches = list(dict.fromkeys(size for one in entries for size in one.latency_ms))
        self.head = ["format", "bytes", "same class as PyTorch", *map(attack_name, self.attacks)]
        self.head += [f"ms, batch {size}" for size in self.batches]
        counts = {name: one.examples[name] for one in entries for name in one.accuracy}
        self.images = ", ".join(f"{attack_name(name)} {count:,}" for name, count in counts.items())
        self.rows = [list(self._cells(one)) for one in entries]

    def _cells(self, one: FormatRecord) -> Iterator[tuple[str, str]]:
        yield f"{one.bytes:,}" if one.bytes else NOTHING, ""
        yield percent(one.agreement.same_class) if one.agreement else NOTHING, ""
        for attack in self.attacks:
            value = one.accuracy.get(attack)
            interval = percent_interval(one.interval_95.get(attack, (0, 0)), NOTHING)
            yield (NOTHING, "") if value is None else (percent(value), interval)
        for size in self.batches:
            time = one.latency_ms.get(size)
            yield (f"{time.median:.2f}", f"{time.low:.2f} – {time.high:.2f}") if time else (NOTHING, "")
