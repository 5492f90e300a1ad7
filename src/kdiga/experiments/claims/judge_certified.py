"""Claim d: the student's certified robustness is at least the teacher's, as far as the theorem's assumptions hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from kdiga.certification.certificate import share
from kdiga.experiments.claims.evidence import Evidence
from kdiga.experiments.claims.grid import Pair
from kdiga.experiments.claims.measurements import CERTIFIED
from kdiga.experiments.claims.verdicts import Verdict, at_least

KINDS = ("clever", "smoothing")
ALIGNED = 0.5  # rho over L up to which gradients count as aligned


def judge_certified(evidence: Evidence, pairs: Sequence[Pair]) -> dict[str, Any]:
    """Return claim d: a row a method, pair and kind of radius, of the first seed's student; judged methods first."""
    rows = [
        _row(evidence, label, pair, kind)
        for label in dict.fromkeys([*evidence.claims.judged, *evidence.claims.methods])
        for pair in pairs
        if evidence.asked(label, pair, CERTIFIED)
        for kind in KINDS
    ]
    return {"rows": rows, "methods": list(evidence.claims.judged)}


def _row(evidence: Evidence, label: str, pair: Pair, kind: str) -> dict[str, Any]:
    row: dict[str, Any] = {
        "method": label,
        "teacher": pair.teacher,
        "student": pair.student,
        "kind": kind,
        "verdict": "undecided",
        "diverged": evidence.diverged(label, pair, seeds=1),
        "share": None,
    }
    content = evidence.found(label, pair, CERTIFIED)
    if content is None:
        if row["diverged"]:  # it certifies nothing
            row["verdict"] = "contradicted"
        return row
    found = content[kind]
    verdict: Verdict = "undecided"
    if found["share_interval_95"] is not None:
        verdict = at_least(*found["share_interval_95"], bar=evidence.claims.rules.covered)
    return (
        row
        | {
            "share": found["share_at_least_teacher"],
            "interval": found["share_interval_95"],
            "compared": found["compared"],
            "verdict": verdict,
            "median_radius": _median(found["student_radius"]),
            "median_teacher_radius": _median(found["teacher_radius"]),
        }
        | (_assumptions(found) if kind == "clever" else {})
    )


def _assumptions(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return how far the theorem's assumption holds, and the share on the examples where it holds best."""
    ratios = [
        None if rho is None or constant is None or constant <= 0 else rho / constant
        for rho, constant in zip(found["rho"], found["teacher_lipschitz"], strict=True)
    ]
    aligned = [
        own >= taught
        for ratio, own, taught in zip(ratios, found["student_radius"], found["teacher_radius"], strict=True)
        if ratio is not None and ratio <= ALIGNED and own is not None and taught is not None and taught > 0
    ]
    of_aligned, interval = share(aligned)
    return {
        "rho_over_lipschitz": _median(ratios),
        "guaranteed_over_measured": found["alignment"]["median_guaranteed_over_measured"],
        "aligned": len(aligned),
        "share_of_aligned": of_aligned,
        "share_of_aligned_95": interval,
    }


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None
