"""The five claims, judged by what the runs left. Each is a list of rows, a case each, with verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdiga.analysis.ranking import FEWEST_MODELS, RESAMPLES, percentile_interval, spearman
from kdiga.certification.certificate import share
from kdiga.experiments.claims.evidence import (
    Evidence,
    Verdict,
    accuracy,
    at_least,
    both,
    compared,
    counted,
    listed,
    opposite,
    overall,
)
from kdiga.experiments.claims.measurements import CERTIFIED, EXPLAINED
from kdiga.experiments.claims.plan import Pair
from kdiga.model_state import mix_seed
from kdiga.statistics import median_known

RADII = ("clever", "smoothing")
ALIGNED = 0.5  # rho over L up to which gradients count as aligned
BOUNDS = ("student bound", "transfer bound")
Table = NDArray[np.float64]


def _case(label: str, pair: Pair) -> dict[str, Any]:
    """Return the start of a row: what it is about."""
    return {"method": label, "teacher": pair.teacher, "student": pair.student}


def judge_all(evidence: Evidence) -> dict[str, Any]:
    """Return the claims by letter, each with the verdicts of the judged methods and its own: that of the first."""
    fresh, pretrained = (evidence.grid.pairs_of(pretrained=one) for one in (False, True))
    found = {
        "a": judge_kd(evidence, fresh),
        "b": judge_transfer(evidence, fresh),
        "c": judge_pretrained(evidence, pretrained),
        "d": judge_certified(evidence, fresh),
        "e": judge_bounds(evidence, fresh),
    }
    return {name: _with_verdicts(claim) for name, claim in found.items()}


def _with_verdicts(claim: dict[str, Any]) -> dict[str, Any]:
    if "verdicts" not in claim:
        rows = claim["rows"]
        cases = {label: [row["verdict"] for row in rows if row["method"] == label] for label in claim["methods"]}
        claim["verdicts"] = {label: overall(found) for label, found in cases.items()}
        claim["counts"] = {label: counted(found) for label, found in cases.items()}
    return claim | {"verdict": claim["verdicts"][claim["methods"][0]]}


# Claims a and b: plain KD does not preserve the teacher's robustness; KDIGA does, whatever the architectures


def preserved(evidence: Evidence, label: str, pair: Pair) -> dict[str, Any]:
    """Return whether a student has the share of its teacher's robust accuracy that the rules ask for."""
    student, teacher = evidence.student(label, pair), evidence.one_model(f"teachers/{pair.teacher}")
    effect = compared(student, teacher, evidence.grid.rules.kept)
    verdict: Verdict = "undecided" if effect is None else at_least(effect.low, effect.high)
    return _case(label, pair) | {
        "robust": accuracy(student),
        "teacher_robust": accuracy(teacher),
        "clean": accuracy(evidence.student(label, pair, "clean")),
        "against_share": listed(effect),
        "against_teacher": listed(compared(student, teacher)),
        "diverged": evidence.diverged(label, pair),
        "verdict": verdict,
    }


def judge_kd(evidence: Evidence, pairs: Sequence[Pair]) -> dict[str, Any]:
    """Return claim a: a row a pair, supported where KD does not preserve, with the student without a teacher."""
    kd, plain = evidence.grid.label_of("kd"), evidence.grid.label_of("ce")
    rows = list[dict[str, Any]]()
    for pair in pairs:
        row, without = preserved(evidence, kd, pair), evidence.student(plain, pair)
        rows.append(
            row
            | {
                "verdict": opposite(row["verdict"]),
                "plain_robust": accuracy(without),
                "plain_clean": accuracy(evidence.student(plain, pair, "clean")),
                "against_plain": listed(compared(evidence.student(kd, pair), without)),
            }
        )
    return {"rows": rows, "methods": [kd]}


def judge_transfer(evidence: Evidence, pairs: Sequence[Pair]) -> dict[str, Any]:
    """Return claim b: a row a method and pair, the judged methods first."""
    rows = [preserved(evidence, label, pair) for label in _taught(evidence) for pair in pairs]
    return {"rows": rows, "methods": list(evidence.grid.judged)}


def _taught(evidence: Evidence) -> list[str]:
    """Return the labels without plain training, the judged ones first."""
    plain = evidence.grid.label_of("ce")
    return [label for label in evidence.grid.judged_first if label != plain]


# Claim c: robustness goes into a pre-trained student without loss of clean accuracy


def judge_pretrained(evidence: Evidence, pairs: Sequence[Pair]) -> dict[str, Any]:
    """Return claim c: a row a method and pre-trained student, against the student before training."""
    cases = [(label, pair) for label in _taught(evidence) for pair in pairs if evidence.run_specs(label, pair)]
    rows = [_pretrained_row(evidence, label, pair) for label, pair in cases]
    return {"rows": rows, "methods": list(evidence.grid.judged)}


def _pretrained_row(evidence: Evidence, label: str, pair: Pair) -> dict[str, Any]:
    rules, start = evidence.grid.rules, f"starts/{pair.student}"
    robust, clean = evidence.student(label, pair), evidence.student(label, pair, "clean")
    start_robust, start_clean = evidence.one_model(start), evidence.one_model(start, "clean")
    gained, kept = compared(robust, start_robust), compared(clean, start_clean)
    verdict: Verdict = "undecided"
    if gained is not None and kept is not None:
        verdict = both(
            at_least(gained.low, gained.high, bar=rules.gained / 100),
            at_least(kept.low, kept.high, bar=-rules.lost / 100),
        )
    return _case(label, pair) | {
        "robust": accuracy(robust),
        "clean": accuracy(clean),
        "start_robust": accuracy(start_robust),
        "start_clean": accuracy(start_clean),
        "gained": listed(gained),
        "kept": listed(kept),
        "diverged": evidence.diverged(label, pair),
        "verdict": verdict,
    }


# Claim d: a student's certified robustness is at least the teacher's, as far as the theorem's assumptions hold


def judge_certified(evidence: Evidence, pairs: Sequence[Pair]) -> dict[str, Any]:
    """Return claim d: a row a method, pair and kind of radius, of the first seed's student; judged methods first."""
    rows = [
        _certified_row(evidence, label, pair, kind)
        for label in evidence.grid.judged_first
        for pair in pairs
        if evidence.asked(label, pair, CERTIFIED)
        for kind in RADII
    ]
    return {"rows": rows, "methods": list(evidence.grid.judged)}


def _certified_row(evidence: Evidence, label: str, pair: Pair, kind: str) -> dict[str, Any]:
    diverged = evidence.diverged(label, pair, seeds=1)
    row = _case(label, pair) | {"kind": kind, "verdict": "undecided", "diverged": diverged, "share": None}
    content = evidence.measured(label, pair, CERTIFIED)
    if content is None:
        return row | ({"verdict": "contradicted"} if diverged else {})  # a student that diverged certifies nothing
    found = content[kind]
    if found["share_interval_95"] is not None:
        row["verdict"] = at_least(*found["share_interval_95"], bar=evidence.grid.rules.covered)
    row |= {
        "share": found["share_at_least_teacher"],
        "interval": found["share_interval_95"],
        "compared": found["compared"],
        "median_radius": median_known(found["student_radius"]),
        "median_teacher_radius": median_known(found["teacher_radius"]),
    }
    return row | (_assumptions(found) if kind == "clever" else {})


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
        "rho_over_lipschitz": median_known(ratios),
        "guaranteed_over_measured": found["alignment"]["median_guaranteed_over_measured"],
        "aligned": len(aligned),
        "share_of_aligned": of_aligned,
        "share_of_aligned_95": interval,
    }


# Claim e: the local-linearity bounds agree with what is observed: their tightness, and their order of the students


def judge_bounds(evidence: Evidence, pairs: Sequence[Pair]) -> dict[str, Any]:
    """Return claim e: a row a student, and how each measure orders the students: all, a method's, and a teacher's.

    Those of one teacher decide nothing: a user has one, and a bound that knows of the teacher need not order the
    students of several. Bounds of other images than those that were attacked have a row, and order nothing.
    """
    rows, measures = list[dict[str, Any]](), list[Mapping[str, Sequence[float | None]]]()
    right = list[Sequence[bool]]()
    for label in evidence.grid.methods:
        for pair in pairs:
            content = evidence.measured(label, pair, EXPLAINED)
            outcomes = evidence.student(label, pair)
            if content is None or outcomes is None:
                continue
            rows.append(_bounds_row(label, pair, content))
            measures.append(_promises(content["values"]))
            right.append(next(iter(outcomes.values()))[: evidence.grid.explain.examples])
            rows[-1]["robust"] = float(np.mean(right[-1])) if evidence.of_attacked(content) else None
    seed = evidence.grid.evaluation.seed
    groups = {"all": _places(rows)}
    groups |= {label: _places(rows, method=label) for label in evidence.grid.judged}
    judged = list(groups)
    teachers = dict.fromkeys(pair.teacher for pair in pairs)
    groups |= {f"from {teacher}": _places(rows, teacher=teacher) for teacher in teachers if len(teachers) > 1}
    rankings = {
        name: {
            measure: ranked([measures[place][measure] for place in places], [right[place] for place in places], seed)
            for measure in (measures[0] if measures else ())
        }
        for name, places in groups.items()
    }
    return {
        "rows": rows,
        "rankings": rankings,
        "methods": judged,
        "verdicts": {name: _verdict(rankings[name], evidence.grid.rules.ranked) for name in judged},
    }


def _places(rows: Sequence[Mapping[str, Any]], **wanted: str) -> list[int]:
    """Return the rows with some values, of those that order students."""
    return [
        place
        for place, row in enumerate(rows)
        if row["robust"] is not None and all(row[key] == value for key, value in wanted.items())
    ]


def ranked(values: Sequence[Sequence[float | None]], right: Sequence[Sequence[bool]], seed: int) -> dict[str, Any]:
    """Return the rank correlation of a measure with robust accuracy, and its interval over students and images.

    Students and images are resampled together, each by itself (Owen, 2007): other students of the same kind on other
    images.

    Args:
        values: For each student one value an image, larger where more robustness is promised; None where undefined.
        right: For each student, whether each image is right under the attack.
        seed: Seed of the resamples.
    """
    if len(values) < FEWEST_MODELS:
        return {"spearman": None, "interval_95": None, "students": len(values)}
    table = np.asarray([[np.nan if value is None else value for value in row] for row in values], dtype=float)
    truth = np.asarray(right, dtype=float)
    observed = float(spearman(_means(table), _means(truth))[0])
    generator = np.random.default_rng(mix_seed(seed, *truth.shape))
    promised, reached = (np.empty((RESAMPLES, len(values))) for _ in range(2))
    for place in range(RESAMPLES):
        students, images = (generator.integers(0, count, count) for count in truth.shape)
        drawn = np.ix_(students, images)
        promised[place], reached[place] = _means(table[drawn])[0], _means(truth[drawn])[0]
    interval = percentile_interval(spearman(promised, reached)) if np.isfinite(observed) else None
    return {
        "spearman": observed if np.isfinite(observed) else None,
        "interval_95": None if interval is None else list(interval),
        "students": len(values),
    }


def _verdict(found: Mapping[str, Mapping[str, Any]], bar: float) -> Verdict:
    """Both bounds have to order students as AutoAttack does."""
    verdict: Verdict = "supported"
    for bound in BOUNDS:
        interval = found.get(bound, {}).get("interval_95")
        verdict = both(verdict, "undecided" if interval is None else at_least(*interval, bar=bar))
    return verdict


def _bounds_row(label: str, pair: Pair, content: Mapping[str, Any]) -> dict[str, Any]:
    row = _case(label, pair) | {"cosine": content["cosine"], "linearity": content["linearity"]}
    for name, bound in content["bounds"].items():
        row |= {f"{name}_{key}": bound[key] for key in ("mean", "measured", "tightness", "violations")}
    return row


def _promises(values: Mapping[str, Sequence[float | None]]) -> dict[str, list[float | None]]:
    """Return what promises robustness, one value an image, larger where it promises more."""
    return {
        name: list(row) if name == "gradient cosine" else [None if value is None else -value for value in row]
        for name, row in values.items()
    }


def _means(table: Table) -> Table:
    """Return the mean of each row over what is defined in it, (1, rows)."""
    defined = np.isfinite(table)
    count = defined.sum(1).astype(float)
    total = np.where(defined, table, 0.0).sum(1)
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)[None]
