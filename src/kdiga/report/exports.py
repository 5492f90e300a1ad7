"""Exported models, from their files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdiga.report.headers import file_identity, ground_of, origin_of
from kdiga.report.records import Ground, Identity, Origin
from kdiga.report.validation import DamagedError, around, fields, number, proportion, record, text, whole_number


@dataclass(frozen=True)
class Measure:
    """An accuracy of a file.

    Args:
        value: in [0, 1].
        interval: 95 %, over the images.
        images: how many.
    """

    value: float
    interval: tuple[float, float]
    images: int


@dataclass(frozen=True)
class Exported:
    """A file.

    Args:
        name: of its format; "pytorch" for the model itself.
        bytes: of it; 0 for the model itself.
        runtime: what ran it.
        same_class: share of images that it and the model put into the same class; None for the model itself.
        accuracy: by attack.
        latency: median, lower and upper quartile in milliseconds, by batch size.
        same_as: the format that it equals bit for bit, whose figures it has; "" for none.
    """

    name: str
    bytes: int
    runtime: str
    same_class: float | None
    accuracy: Mapping[str, Measure]
    latency: Mapping[str, tuple[float, float, float]]
    same_as: str


@dataclass(frozen=True)
class Export:
    """An exported model."""

    identity: Identity
    ground: Ground
    origin: Origin
    formats: Mapping[str, Exported]


def read_export(path: Path, content: Mapping[str, Any]) -> Export:
    """Return what ``export.json`` holds.

    Raises:
        DamagedError: if it names no format, or a figure is none.
    """
    formats = record(content.get("formats"), "formats")
    if not formats:
        raise DamagedError("it names no format")
    return Export(
        file_identity(content, path),
        ground_of(content),
        origin_of(content, path),
        {name: _format(name, record(one, f"the format {name}")) for name, one in formats.items()},
    )


def _format(name: str, content: Mapping[str, Any]) -> Exported:
    near = fields(content.get("agreement"))
    return Exported(
        name=name,
        bytes=whole_number(content.get("bytes")) or 0,
        runtime=text(content.get("runtime")),
        same_class=proportion(near.get("same_class"), "the share of the same class") if near else None,
        accuracy={attack: _measure(content, attack) for attack in fields(content.get("accuracy"))},
        latency={size: _latency(record(one, "latency")) for size, one in fields(content.get("latency_ms")).items()},
        same_as=text(content.get("same_as")),
    )


def _measure(content: Mapping[str, Any], attack: str) -> Measure:
    value = proportion(content["accuracy"][attack], f"accuracy under {attack}")
    interval = around(value, fields(content.get("interval_95")).get(attack), "interval_95")
    images = whole_number(fields(content.get("examples")).get(attack))
    if not images:
        raise DamagedError(f"it does not say on how many images accuracy under {attack} was measured")
    return Measure(value, interval, images)


def _latency(content: Mapping[str, Any]) -> tuple[float, float, float]:
    median, low, high = (number(content.get(name), f"latency ({name})") for name in ("median", "low", "high"))
    if not 0 <= low <= median <= high:
        raise DamagedError(f"latency has quartiles {low:g} and {high:g} around {median:g}")
    return median, low, high
