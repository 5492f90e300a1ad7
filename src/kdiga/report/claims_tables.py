"""The tables behind each verdict, as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from kdiga.io.markdown import safe
from kdiga.report.study import NOTHING
from kdiga.results.attack_names import attack_name

Content = Mapping[str, Any]
RADII = {"clever": "CLEVER", "smoothing": "smoothing"}


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return a table's lines."""
    return [
        f"| {' | '.join(map(safe, heads))} |",
        f"|{'---|' * len(heads)}",
        *(f"| {' | '.join(map(safe, row))} |" for row in rows),
    ]


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


def _verdict(row: Mapping[str, Any]) -> str:
    return f"{row['verdict']}, {row['diverged']} diverged" if row["diverged"] else row["verdict"]


def kd_table(content: Content) -> list[str]:
    """Return claim a's table."""
    share = f"{100 * content['rules']['kept']:g} %"
    heads = [
        "teacher",
        "student",
        "teacher, robust",
        "KD, robust",
        "plain, robust",
        f"KD - {share} of the teacher",
        "KD - plain",
        "KD, clean",
        "plain, clean",
        "verdict",
    ]
    return table(
        heads,
        (
            [
                row["teacher"],
                row["student"],
                percent(row["teacher_robust"]),
                percent(row["robust"]),
                percent(row["plain_robust"]),
                points(row["against_share"]),
                points(row["against_plain"]),
                percent(row["clean"]),
                percent(row["plain_clean"]),
                _verdict(row),
            ]
            for row in content["claims"]["a"]["rows"]
        ),
    )


def transfer_table(content: Content) -> list[str]:
    """Return claim b's table: the judged methods, then those beside them."""
    share = f"{100 * content['rules']['kept']:g} %"
    heads = [
        "method",
        "teacher",
        "student",
        "clean",
        "robust",
        "teacher, robust",
        f"student - {share} of the teacher",
        "student - teacher",
        "preserved",
    ]
    return table(
        heads,
        (
            [
                row["method"],
                row["teacher"],
                row["student"],
                percent(row["clean"]),
                percent(row["robust"]),
                percent(row["teacher_robust"]),
                points(row["against_share"]),
                points(row["against_teacher"]),
                _verdict(row),
            ]
            for row in content["claims"]["b"]["rows"]
        ),
    )


def pretrained_table(content: Content) -> list[str]:
    """Return claim c's table."""
    rows = content["claims"]["c"]["rows"]
    if not rows:
        return ["No pre-trained student was tested."]
    heads = ["method", "teacher", "student", "clean", "clean, change", "robust", "robust, change", "verdict"]
    starts = {row["student"]: row for row in rows}
    first = [
        ["start", "", name, percent(row["start_clean"]), "", percent(row["start_robust"]), "", ""]
        for name, row in starts.items()
    ]
    return table(
        heads,
        first
        + [
            [
                row["method"],
                row["teacher"],
                row["student"],
                percent(row["clean"]),
                points(row["kept"]),
                percent(row["robust"]),
                points(row["gained"]),
                _verdict(row),
            ]
            for row in rows
        ],
    )


def certified_table(content: Content) -> list[str]:
    """Return claim d's table."""
    heads = [
        "method",
        "teacher",
        "student",
        "radius",
        "at least the teacher's",
        "of images",
        "median radius",
        "the teacher's",
        "rho / L",
        "guaranteed / own",
        "where rho / L <= 0.5",
        "verdict",
    ]
    lines = list[Sequence[str]]()
    for row in content["claims"]["d"]["rows"]:
        share = NOTHING
        if row.get("interval"):
            low, high = row["interval"]
            share = f"{100 * row['share']:.0f} % ({100 * low:.0f} to {100 * high:.0f})"
        aligned = f"{100 * row['share_of_aligned']:.0f} % of {row['aligned']}" if row.get("aligned") else NOTHING
        lines.append(
            [
                row["method"],
                row["teacher"],
                row["student"],
                RADII[row["kind"]],
                share,
                str(row.get("compared", NOTHING)),
                number(row.get("median_radius"), ".4f"),
                number(row.get("median_teacher_radius"), ".4f"),
                number(row.get("rho_over_lipschitz")),
                number(row.get("guaranteed_over_measured")),
                aligned,
                _verdict(row),
            ]
        )
    return [
        *table(heads, lines),
        "",
        "CLEVER estimates, smoothing certifies the smoothed model; rho / L and the guaranteed radius, of which "
        "docs/certification.md speaks, are medians over images.",
    ]


def bounds_table(content: Content) -> list[str]:
    """Return claim e's tables: how measures order students, and how tight the bounds are."""
    claim = content["claims"]["e"]
    rankings: Mapping[str, Mapping[str, Any]] = claim["rankings"]
    measures = list(rankings["all"])
    lines = [[measure, *(_ranked(found.get(measure)) for found in rankings.values())] for measure in measures]
    heads = ["orders students", *rankings]
    by_teacher = any(name.startswith("from ") for name in rankings)
    tight = list[list[str]]()
    for method in dict.fromkeys(row["method"] for row in claim["rows"]):
        rows = [row for row in claim["rows"] if row["method"] == method]
        tight.append(
            [
                method,
                str(len(rows)),
                *(_spread([row[f"{name}_tightness"] for row in rows]) for name in ("student", "transfer")),
                *(str(sum(row[f"{name}_violations"] for row in rows)) for name in ("student", "transfer")),
            ]
        )
    heads_tight = [
        "method",
        "students",
        "student bound: found / bound",
        "transfer bound: found / bound",
        "violations, student",
        "violations, transfer",
    ]
    return [
        "Rank correlation (Spearman) of each measure with accuracy under AutoAttack, intervals over students and "
        "images:",
        "",
        *table(heads, lines),
        "",
        *(["Columns of one teacher's students are for information; the rule does not look at them.", ""] * by_teacher),
        "Tightness: the worst that a search found over the bound, range over students; 1 would say all. That no bound "
        "is violated tests the program and not the models (docs/explain.md).",
        "",
        *table(heads_tight, tight),
    ]


def _ranked(found: Mapping[str, Any] | None) -> str:
    if found is None or found["spearman"] is None:
        return NOTHING
    interval = found["interval_95"]
    told = "" if interval is None else f" ({interval[0]:.2f} to {interval[1]:.2f})"
    return f"{found['spearman']:.2f}{told}"


def _spread(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{min(known):.2f} to {max(known):.2f}" if known else NOTHING


TABLES: Mapping[str, Callable[[Content], list[str]]] = {
    "a": kd_table,
    "b": transfer_table,
    "c": pretrained_table,
    "d": certified_table,
    "e": bounds_table,
}


def model_rows(content: Content) -> list[str]:
    """Return every model with its accuracy, means over seeds, and what training it cost."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for run in content["runs"]:
        groups.setdefault(run["folder"].rpartition("/seed-")[0] or run["folder"], []).append(run)
    attacks = list(content["attacks"])
    lines = list[list[str]]()
    for name, runs in groups.items():
        ended = [run for run in runs if run["accuracy"]]
        passes = [sum(run["passes"].values()) for run in ended if run["passes"]]
        states = [
            f"{sum(run['status'] == state for run in runs)} {state}"
            for state in ("diverged", "failed", "open")
            if any(run["status"] == state for run in runs)
        ]
        lines.append(
            [
                name,
                f"{ended[0]['parameters']:,}" if ended and ended[0]["parameters"] else NOTHING,
                *(", ".join(percent(run["accuracy"][attack]) for run in ended) or NOTHING for attack in attacks),
                *(_mean([run.get(key) for run in ended]) for key in ("minutes", "attack_minutes")),
                f"{statistics.mean(passes):,.0f}" if passes else NOTHING,
                ", ".join(states),
            ]
        )
    robust = [f"{attack_name(name)}, by seed" for name in attacks]
    return [
        *table(["model", "parameters", *robust, "minutes", "attacks", "passes", ""], lines),
        "",
        "Percent; minutes of training, and of attacks, a run. A pass is a forward or backward of a batch in training, "
        "the student's and the teacher's.",
    ]


def _mean(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return number(statistics.mean(known) if known else None, ".1f")


def coefficient_rows(content: Content) -> list[str]:
    """Return what the search for coefficients tried and chose."""
    if not content["coefficients"]:
        return ["None were searched for."]
    lines = list[list[str]]()
    for entry in content["coefficients"]:
        chosen = entry.get("coefficients")
        values = NOTHING if chosen is None else ", ".join(f"{name} {value:g}" for name, value in chosen.items())
        tried = ", ".join(_trial(trial) for trial in entry["trials"])
        lines.append([entry["search"], values, tried])
    return [
        *table(["search", "chosen", "validation robust / clean of each trial"], lines),
        "",
        "The same number of trials for every method, on one pair. A pre-trained student's have to keep its clean "
        "accuracy on validation images within the bound, if any does.",
    ]


def _trial(trial: Mapping[str, Any]) -> str:
    best = trial["best"]
    return trial["status"] if best is None else f"{100 * best['robust']:.1f} / {100 * best['clean']:.1f}"


def certified_sizes(content: Content) -> str:
    """Return how many images d and e rest on."""
    certified, explained = (content[key]["examples"] for key in ("certify", "explain"))
    return f"More than the first {certified} test images under d and {explained} under e."
