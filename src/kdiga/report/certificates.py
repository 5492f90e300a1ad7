"""Certified models, from their files."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdiga.report.headers import file_identity, ground_of, origin_of
from kdiga.report.radii import Against, Certificate, Radii
from kdiga.report.records import Curve
from kdiga.report.validation import (
    DamagedError,
    bounds,
    fields,
    listing,
    number,
    numbers,
    proportion,
    record,
    shares,
    whole_number,
)

KINDS = ("clever", "smoothing", "interval")
SETTINGS = ("sigma", "samples", "alpha", "batches", "batch_size", "max_radius")


def read_certificate(path: Path, content: Mapping[str, Any]) -> Certificate:
    """Return what ``certificate.json`` holds.

    Raises:
        DamagedError: if there is no certificate, or its curve is none.
    """
    ground = ground_of(content)
    radii = {kind: _radii(kind, record(content[kind], kind), ground.norm) for kind in KINDS if content.get(kind)}
    if not radii:
        raise DamagedError(f"it holds none of {', '.join(KINDS)}")
    against = fields(content.get("against"))
    teacher = fields(against.get("teacher"))
    return Certificate(
        identity=file_identity(content, path),
        ground=ground,
        origin=origin_of(content, path),
        radii=radii,
        teacher=file_identity(teacher) if teacher else None,
        against={kind: _against(kind, record(against[kind], kind)) for kind in KINDS if against.get(kind)},
    )


def _radii(kind: str, content: Mapping[str, Any], norm: str) -> Radii:
    radius = [None if value is None else number(value, "radius") for value in listing(content.get("radius"), "radius")]
    known = [value for value in radius if value is not None]
    missing = [
        f"{count} {why}"
        for name, why in (("failed", "without a fit"), ("abstained", "abstained"))
        if (count := whole_number(content.get(name)))
    ]
    return Radii(
        kind=kind,
        norm=str(content.get("norm") or norm),
        curve=_curve(content.get("curve")),
        median=statistics.median(known) if known else None,
        images=len(radius),
        missing=", ".join(missing),
        settings={name: number(content[name], name) for name in SETTINGS if content.get(name) is not None},
    )


def _against(kind: str, content: Mapping[str, Any]) -> Against:
    interval, curve = content.get("share_interval_95"), content.get("teacher_curve")
    alignment = fields(content.get("alignment"))
    ratios = [alignment.get(name) for name in ("median_rho_over_lipschitz", "median_guaranteed_over_measured")]
    rho, of_own = (None if value is None else number(value, "alignment") for value in ratios)
    known = [number(radius, "guaranteed_radius") for radius in content.get("guaranteed_radius") or [] if radius]
    return Against(
        kind,
        proportion(content.get("share_at_least_teacher"), "share_at_least_teacher"),
        None if interval is None else bounds(interval, "share_interval_95"),
        None if curve is None else _curve(curve),
        rho,
        statistics.median(known) if known else None,
        of_own,
    )


def _curve(content: Any) -> Curve:
    curve = record(content, "curve")
    at, accuracy = numbers(curve.get("radius"), "radius of the curve"), shares(curve.get("accuracy"), "the curve")
    if len(at) != len(accuracy) or not at:
        raise DamagedError("the certified curve has not one accuracy a radius")
    return Curve(at, accuracy)
