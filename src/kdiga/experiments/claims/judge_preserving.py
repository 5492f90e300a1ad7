"""Claims a and b: plain KD does not preserve the teacher's robustness; KDIGA does, whatever the architectures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kdiga.experiments.claims.evidence import Evidence, accuracy, held_against, listed
from kdiga.experiments.claims.grid import Pair
from kdiga.experiments.claims.verdicts import Verdict, at_least, opposite


def preserved(evidence: Evidence, label: str, pair: Pair) -> dict[str, Any]:
    """Return whether a method preserves a teacher's robustness in a student: it keeps the share that the rules ask for.

    Args:
        evidence: what the runs left.
        label: of the method.
        pair: of teacher and student.
    """
    share = evidence.claims.rules.kept
    ours, theirs = evidence.student(label, pair), evidence.teacher(pair)
    against = held_against(ours, theirs, share)
    verdict: Verdict = "undecided" if against is None else at_least(against.low, against.high)
    return {
        "method": label,
        "teacher": pair.teacher,
        "student": pair.student,
        "robust": accuracy(ours),
        "teacher_robust": accuracy(theirs),
        "clean": accuracy(evidence.student(label, pair, "clean")),
        "against_share": listed(against),
        "against_teacher": listed(held_against(ours, theirs)),
        "diverged": evidence.diverged(label, pair),
        "verdict": verdict,
    }


def judge_kd(evidence: Evidence, pairs: Sequence[Pair]) -> dict[str, Any]:
    """Return claim a: a row a pair, supported where KD does not preserve, beside the student without a teacher."""
    kd, plain = evidence.claims.label_of("kd"), evidence.claims.label_of("ce")
    rows = list[dict[str, Any]]()
    for pair in pairs:
        row, without = preserved(evidence, kd, pair), evidence.student(plain, pair)
        rows.append(
            row
            | {
                "verdict": opposite(row["verdict"]),
                "plain_robust": accuracy(without),
                "plain_clean": accuracy(evidence.student(plain, pair, "clean")),
                "against_plain": listed(held_against(evidence.student(kd, pair), without)),
            }
        )
    return {"rows": rows, "methods": [kd]}


def judge_transfer(evidence: Evidence, pairs: Sequence[Pair]) -> dict[str, Any]:
    """Return claim b: a row a method and pair; those that are not judged stand beside."""
    plain = evidence.claims.label_of("ce")
    labels = [
        *evidence.claims.judged,
        *(name for name in evidence.claims.methods if name not in evidence.claims.judged),
    ]
    rows = [preserved(evidence, label, pair) for label in labels if label != plain for pair in pairs]
    return {"rows": rows, "methods": list(evidence.claims.judged)}
