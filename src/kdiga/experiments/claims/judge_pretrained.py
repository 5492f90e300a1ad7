"""Claim c: robustness goes into a pre-trained student without loss of clean accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kdiga.experiments.claims.evidence import Evidence, accuracy, held_against, listed
from kdiga.experiments.claims.grid import Pair
from kdiga.experiments.claims.verdicts import Verdict, at_least, both


def judge_pretrained(evidence: Evidence, pairs: Sequence[Pair]) -> dict[str, Any]:
    """Return claim c: a row a method and pre-trained student, against the student before training."""
    plain = evidence.claims.label_of("ce")
    labels = [
        *evidence.claims.judged,
        *(name for name in evidence.claims.methods if name not in evidence.claims.judged),
    ]
    rows = [_row(evidence, label, pair) for label in labels if label != plain for pair in pairs]
    return {"rows": [row for row in rows if row is not None], "methods": list(evidence.claims.judged)}


def _row(evidence: Evidence, label: str, pair: Pair) -> dict[str, Any] | None:
    if not evidence.run_specs(label, pair):
        return None
    rules, start = evidence.claims.rules, f"starts/{pair.student}"
    robust, clean = evidence.student(label, pair), evidence.student(label, pair, "clean")
    gained = held_against(robust, evidence.alone(start))
    kept = held_against(clean, evidence.alone(start, "clean"))
    verdict: Verdict = "undecided"
    if gained is not None and kept is not None:
        verdict = both(
            at_least(gained.low, gained.high, bar=rules.gained / 100),
            at_least(kept.low, kept.high, bar=-rules.lost / 100),
        )
    return {
        "method": label,
        "teacher": pair.teacher,
        "student": pair.student,
        "robust": accuracy(robust),
        "clean": accuracy(clean),
        "start_robust": accuracy(evidence.alone(start)),
        "start_clean": accuracy(evidence.alone(start, "clean")),
        "gained": listed(gained),
        "kept": listed(kept),
        "diverged": evidence.diverged(label, pair),
        "verdict": verdict,
    }
