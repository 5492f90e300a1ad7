"""Claim e: the local-linearity bounds agree with what is observed: how tight they are, and how they order students."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdiga.analysis.ranking import FEWEST_MODELS, RESAMPLES, percentile_interval, spearman
from kdiga.experiments.claims.evidence import Evidence
from kdiga.experiments.claims.grid import Pair
from kdiga.experiments.claims.measurements import EXPLAINED
from kdiga.experiments.claims.verdicts import Verdict, at_least, both
from kdiga.model_state import mix_seed

BOUNDS = ("student bound", "transfer bound")
Table = NDArray[np.float64]


def judge_bounds(evidence: Evidence, pairs: Sequence[Pair]) -> dict[str, Any]:
    """Return claim e: a row a student, and how each measure orders the students: all, a method's, and a teacher's.

    Those of one teacher decide nothing: a user has one, and a bound that knows of the teacher need not order the
    students of several.
    """
    rows, measures = list[dict[str, Any]](), list[Mapping[str, Sequence[float | None]]]()
    right = list[Sequence[bool]]()
    for label in evidence.claims.methods:
        for pair in pairs:
            content = evidence.found(label, pair, EXPLAINED)
            outcomes = evidence.student(label, pair)
            if content is None or outcomes is None:
                continue
            rows.append(_row(label, pair, content))
            measures.append(_promises(content["values"]))
            right.append(outcomes[0][: evidence.claims.explain.examples])
            rows[-1]["robust"] = float(np.mean(right[-1]))
    seed = evidence.claims.evaluation.seed
    groups = {"all": _places(rows)}
    groups |= {label: _places(rows, method=label) for label in evidence.claims.judged}
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
        "verdicts": {name: _verdict(rankings[name], evidence.claims.rules.ranked) for name in judged},
    }


def _places(rows: Sequence[Mapping[str, Any]], **wanted: str) -> list[int]:
    return [place for place, row in enumerate(rows) if all(row[key] == value for key, value in wanted.items())]


def ranked(values: Sequence[Sequence[float | None]], right: Sequence[Sequence[bool]], seed: int) -> dict[str, Any]:
    """Return the rank correlation of a measure with robust accuracy, and its interval over students and images.

    Students and images are resampled together, each by itself (Owen, 2007): other students of the same kind on other
    images.

    Args:
        values: for each student one value an image, larger where more robustness is promised; None where undefined.
        right: for each student, whether each image is right under the attack.
        seed: of the resamples.
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


def _row(label: str, pair: Pair, content: Mapping[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "method": label,
        "teacher": pair.teacher,
        "student": pair.student,
        "cosine": content["cosine"],
        "linearity": content["linearity"],
    }
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
