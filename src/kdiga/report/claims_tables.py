"""The tables behind each verdict, as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence

from kdiga.report.tables import NOTHING, markdown_table
from kdiga.results.attack_names import attack_name
from kdiga.results.studies import ClaimRow, ClaimsResult, ClaimsRun, CorrelationRecord

RADII = {"clever": "CLEVER", "smoothing": "smoothing"}
Column = tuple[str, Callable[[ClaimRow], str]]  # a heading, and its cell of a row
METHOD: Column = ("method", lambda row: row.method)
PAIR: tuple[Column, Column] = (("teacher", lambda row: row.teacher), ("student", lambda row: row.student))


def _table(rows: Iterable[ClaimRow], *columns: Column) -> list[str]:
    """Return a table of the rows whose student was measured, and how many have no result."""
    rows = list(rows)
    known = [row for row in rows if row.robust is not None or row.compared is not None or row.diverged]
    cells = ([cell(row) for _, cell in columns] for row in known)
    lines = markdown_table([heading for heading, _ in columns], cells) if known else []
    if len(known) == len(rows):
        return lines
    missing = f"{len(rows) - len(known)} of {len(rows)} rows have no result and are left out."
    return [*lines, *([""] if lines else []), missing]


def percent(value: float | None) -> str:
    """Return a share in percent."""
    return NOTHING if value is None else f"{100 * value:.1f}"


def points(effect: Sequence[float] | None) -> str:
    """Return an effect in percentage points, with its interval."""
    if effect is None:
        return NOTHING
    mean, low, high = (100 * part for part in effect)
    return f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"


def number(value: float | None, form: str = ".2f") -> str:
    """Return a number, or that there is none."""
    return NOTHING if value is None else f"{value:{form}}"


def _verdict(row: ClaimRow) -> str:
    return f"{row.verdict}, {row.diverged} diverged" if row.diverged else row.verdict


def kd_table(claims: ClaimsResult) -> list[str]:
    """Return claim a's table."""
    share = f"{100 * claims.rules['kept']:g} %"
    return _table(
        claims.claims["a"].rows,
        *PAIR,
        ("teacher, robust", lambda row: percent(row.teacher_robust)),
        ("KD, robust", lambda row: percent(row.robust)),
        ("plain, robust", lambda row: percent(row.plain_robust)),
        (f"KD - {share} of the teacher", lambda row: points(row.against_share)),
        ("KD - plain", lambda row: points(row.against_plain)),
        ("KD, clean", lambda row: percent(row.clean)),
        ("plain, clean", lambda row: percent(row.plain_clean)),
        ("verdict", _verdict),
    )


def transfer_table(claims: ClaimsResult) -> list[str]:
    """Return claim b's table: the judged methods, then the others."""
    share = f"{100 * claims.rules['kept']:g} %"
    return _table(
        claims.claims["b"].rows,
        METHOD,
        *PAIR,
        ("clean", lambda row: percent(row.clean)),
        ("robust", lambda row: percent(row.robust)),
        ("teacher, robust", lambda row: percent(row.teacher_robust)),
        (f"student - {share} of the teacher", lambda row: points(row.against_share)),
        ("student - teacher", lambda row: points(row.against_teacher)),
        ("preserved", _verdict),
    )


def pretrained_table(claims: ClaimsResult) -> list[str]:
    """Return claim c's table: each student before training, then every method's."""
    rows = claims.claims["c"].rows
    if not rows:
        return ["No pre-trained student was tested."]
    starts = [
        ClaimRow(method="start", teacher="", student=row.student, clean=row.start_clean, robust=row.start_robust)
        for row in {row.student: row for row in rows}.values()
    ]
    return _table(
        [*starts, *rows],
        METHOD,
        *PAIR,
        ("clean", lambda row: percent(row.clean)),
        ("clean, change", lambda row: points(row.kept) if row.verdict else ""),
        ("robust", lambda row: percent(row.robust)),
        ("robust, change", lambda row: points(row.gained) if row.verdict else ""),
        ("verdict", _verdict),
    )


def certified_table(claims: ClaimsResult) -> list[str]:
    """Return claim d's table."""
    lines = _table(
        claims.claims["d"].rows,
        METHOD,
        *PAIR,
        ("radius", lambda row: RADII[row.kind]),
        ("at least the teacher's", _share),
        ("of images", lambda row: NOTHING if row.compared is None else str(row.compared)),
        ("median radius", lambda row: number(row.median_radius, ".4f")),
        ("the teacher's", lambda row: number(row.median_teacher_radius, ".4f")),
        ("rho / L", lambda row: number(row.rho_over_lipschitz)),
        ("guaranteed / own", lambda row: number(row.guaranteed_over_measured)),
        ("where rho / L <= 0.5", _aligned),
        ("verdict", _verdict),
    )
    return [
        *lines,
        "",
        "CLEVER is an estimate; smoothing certifies the smoothed model. rho / L and the guaranteed radius (explained "
        "in docs/certification.md) are medians over images.",
    ]


def _share(row: ClaimRow) -> str:
    if not row.interval or row.share is None:
        return NOTHING
    low, high = row.interval
    return f"{100 * row.share:.0f} % ({100 * low:.0f} to {100 * high:.0f})"


def _aligned(row: ClaimRow) -> str:
    if not row.aligned or row.share_of_aligned is None:
        return NOTHING
    return f"{100 * row.share_of_aligned:.0f} % of {row.aligned}"


def bounds_table(claims: ClaimsResult) -> list[str]:
    """Return claim e's tables: how measures order students, and how tight the bounds are."""
    claim = claims.claims["e"]
    rankings = claim.rankings
    lines = [[measure, *(_ranked(found.get(measure)) for found in rankings.values())] for measure in rankings["all"]]
    by_teacher = any(name.startswith("from ") for name in rankings)
    methods = {row.method: [one for one in claim.rows if one.method == row.method] for row in claim.rows}
    tightness = markdown_table(
        [
            *("method", "students", "student bound: found / bound", "transfer bound: found / bound"),
            *("violations, student", "violations, transfer"),
        ],
        (
            [
                method,
                str(len(rows)),
                _spread([row.student_tightness for row in rows]),
                _spread([row.transfer_tightness for row in rows]),
                str(sum(row.student_violations for row in rows)),
                str(sum(row.transfer_violations for row in rows)),
            ]
            for method, rows in methods.items()
        ),
    )
    correlations = [
        "Rank correlation (Spearman) of each measure with accuracy under AutoAttack, and its interval over students "
        "and images:",
        "",
        *markdown_table(["orders students", *rankings], lines),
        "",
        *(["The rule does not use the columns of one teacher's students.", ""] * by_teacher),
    ]
    return [
        *(correlations if any(cell != NOTHING for line in lines for cell in line[1:]) else []),
        "Tightness is the largest value that a search found, divided by the bound; the table has the lowest and "
        "highest student. 1 means an exact bound. Violations would be errors of the program (docs/explain.md).",
        "",
        *tightness,
    ]


def _ranked(found: CorrelationRecord | None) -> str:
    if found is None or found.spearman is None:
        return NOTHING
    interval = found.interval_95
    sure = "" if interval is None else f" ({interval[0]:.2f} to {interval[1]:.2f})"
    return f"{found.spearman:.2f}{sure}"


def _spread(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{min(known):.2f} to {max(known):.2f}" if known else NOTHING


TABLES: Mapping[str, Callable[[ClaimsResult], list[str]]] = {
    "a": kd_table,
    "b": transfer_table,
    "c": pretrained_table,
    "d": certified_table,
    "e": bounds_table,
}


def without_seed(folder: str) -> str:
    """Return a run's folder without its seed."""
    return folder.rpartition("/seed-")[0] or folder


def model_rows(claims: ClaimsResult) -> list[str]:
    """Return every model that has a result with its accuracy, by seed, and what training it cost."""
    groups: dict[str, list[ClaimsRun]] = {}
    for run in claims.runs:
        groups.setdefault(without_seed(run.folder), []).append(run)
    begun = {name: runs for name, runs in groups.items() if any(run.status != "open" for run in runs)}
    attacks = list(claims.attacks)
    by_seed = [f"{attack_name(name)}, by seed" for name in attacks]
    return [
        *markdown_table(
            ["model", "parameters", *by_seed, "minutes of training", "minutes of attacks", "passes", ""],
            (_model_row(name, runs, attacks) for name, runs in begun.items()),
        ),
        "",
        "Accuracies in percent; minutes and passes per run. A pass is one forward or backward pass of a batch through "
        "student or teacher in training.",
    ]


def _model_row(name: str, runs: Sequence[ClaimsRun], attacks: Sequence[str]) -> list[str]:
    ended = [(run, run.accuracy) for run in runs if run.accuracy]
    passes = [sum(count or 0 for count in run.passes.values()) for run, _ in ended if run.passes]
    counts = {state: sum(run.status == state for run in runs) for state in ("diverged", "failed", "open")}
    parameters = ended[0][0].parameters if ended else None
    return [
        name,
        f"{parameters:,}" if parameters else NOTHING,
        *(", ".join(percent(accuracy[attack]) for _, accuracy in ended) or NOTHING for attack in attacks),
        _mean([run.minutes for run, _ in ended]),
        _mean([run.attack_minutes for run, _ in ended]),
        f"{statistics.mean(passes):,.0f}" if passes else NOTHING,
        ", ".join(f"{count} {state}" for state, count in counts.items() if count),
    ]


def epoch_rows(claims: ClaimsResult) -> list[str]:
    """Return by method the highest and the last validation accuracy under PGD, means over runs."""
    rows: list[list[str]] = []
    for label in claims.methods:
        histories = [run.history for run in claims.runs if run.label == label and len(run.history) > 1]
        if not histories:
            continue
        best = statistics.mean(max(robust for _, _, robust in history) for history in histories)
        last = statistics.mean(history[-1][2] for history in histories)
        at = statistics.mean(max(history, key=lambda one: one[2])[0] / history[-1][0] for history in histories)
        change = f"{100 * (last - best):+.1f}"
        rows.append([label, str(len(histories)), percent(best), f"{100 * at:.0f} %", percent(last), change])
    return [
        *markdown_table(["method", "runs", "highest", "reached after", "last epoch", "change"], rows),
        "",
        "Percent of the validation images under the validation's PGD; means over runs. The highest value is reached "
        "after that share of the epochs. It is too high by chance, so a small negative change does not show a loss.",
    ]


def _mean(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return number(statistics.mean(known) if known else None, ".1f")


def coefficient_rows(claims: ClaimsResult) -> list[str]:
    """Return what the search for coefficients tried and chose."""
    if not claims.coefficients:
        return ["No coefficients were searched."]
    lines: list[list[str]] = []
    for entry in claims.coefficients:
        chosen = entry.coefficients
        values = NOTHING if chosen is None else ", ".join(f"{name} {value:g}" for name, value in chosen.items())
        trials = [
            one.status if one.best is None else f"{100 * one.best.robust:.1f} / {100 * one.best.clean:.1f}"
            for one in entry.trials
        ]
        lines.append([entry.search, values, ", ".join(trials)])
    return [
        *markdown_table(["search", "chosen", "validation robust / clean of each trial"], lines),
        "",
        "Every method has the same number of trials, on one pair. For a pre-trained student the most robust trial is "
        "chosen among those that lose little enough clean accuracy on validation images, if there are any.",
    ]
