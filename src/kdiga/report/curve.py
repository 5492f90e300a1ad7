"""The table, the pictures and the answer of a curve, from its ``curve.json`` alone."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdiga.io.markdown import safe
from kdiga.report.curve_picture import draw_curve
from kdiga.report.plots import replace_file, to_svg
from kdiga.report.study import NOTHING, MeanAndRange, marked, when_and_where
from kdiga.results.attack_names import attack_name

PICTURES = ("curve.png", "curve-dark.png", "curve.svg")


def write_curve_files(folder: Path, content: Mapping[str, Any], *, pictures: bool = True) -> None:
    """Write ``curve.csv`` and ``curve.md``, and ``curve.png``, ``curve-dark.png`` and ``curve.svg``.

    Args:
        folder: of the curve.
        content: of ``curve.json``.
        pictures: False leaves the pictures as they are; drawing them takes seconds.
    """
    replace_file(folder / "curve.csv", curve_csv(content).encode())
    replace_file(folder / "curve.md", curve_markdown(content).encode())
    if not pictures:
        return
    for name, dark in (("curve.png", False), ("curve-dark.png", True)):
        written = io.BytesIO()
        draw_curve(content, dark=dark).savefig(written, format="png", dpi=150)
        replace_file(folder / name, written.getvalue())
    replace_file(folder / "curve.svg", to_svg(draw_curve(content)).encode())


def headings(content: Mapping[str, Any]) -> list[str]:
    """Return the names of the table's columns."""
    confirmed = confirmed_heading(content)
    return [
        content["key"],
        *(f"{attack_name(attack)}, test" for attack in content["attacks"]),
        *([] if confirmed is None else [confirmed]),
        "clean, validation",
        f"{attack_name(content['validation_attack'])}, validation",
        "clean lost, validation",
        "minutes",
        "",
    ]


def confirmed_heading(content: Mapping[str, Any]) -> str | None:
    """Return what the column of the costly attack is called; None where it has not been made."""
    made = [run["confirmed"] for run in content["start"]["runs"] if run["confirmed"]]
    if not made:
        return None
    attack, examples = next((name, count) for name, count in made[0]["examples"].items() if name != "clean")
    return f"{attack_name(attack)}, {examples} test"


def table_rows(content: Mapping[str, Any]) -> list[list[str]]:
    """Return the table's lines, the start first; percent, means over seeds."""
    value = content["answer"]["value"]
    rows = [_row("start", content["start"]["runs"], content, "")]
    for point in content["points"]:
        states = [run["status"] for run in point["runs"] if run["status"] != "done"]
        remark = ", ".join(dict.fromkeys(states)) or ("chosen" if point["value"] == value else "")
        rows.append(_row(f"{point['value']:g}", point["runs"], content, remark))
    return rows


def _row(label: str, runs: Sequence[Mapping[str, Any]], content: Mapping[str, Any], remark: str) -> list[str]:
    costly = confirmed_heading(content)
    confirmed = [_mean(runs, "confirmed", _costly(run)) for run in runs[:1]] if costly else []
    lost = [-run["validation_change"]["clean"][0] for run in runs if run.get("validation_change")]
    minutes = [run["minutes"] for run in runs if run["minutes"] is not None]
    return [
        label,
        *(_mean(runs, "test", attack) for attack in content["attacks"]),
        *confirmed,
        _mean(runs, "validation", "clean"),
        _mean(runs, "validation", "robust"),
        f"{100 * statistics.mean(lost):.1f}" if lost else NOTHING,
        f"{statistics.mean(minutes):.1f}" if minutes and any(minutes) else NOTHING,
        remark,
    ]


def _costly(run: Mapping[str, Any]) -> str:
    names = (run["confirmed"] or {"accuracy": {}})["accuracy"]
    return next((name for name in names if name != "clean"), "")


def _mean(runs: Sequence[Mapping[str, Any]], where: str, attack: str) -> str:
    spread = MeanAndRange.of(
        [run[where]["accuracy"][attack] for run in runs if run[where] and attack in run[where]["accuracy"]]
    )
    return NOTHING if spread is None else spread.percent()


def answer_lines(content: Mapping[str, Any]) -> list[str]:
    """Return the answer in sentences: what was gained at a bounded loss of clean accuracy, or that nothing was."""
    found, bound = content["answer"], f"at most {content['at_most']:g} points of validation clean accuracy"
    if not found["settled"]:
        return [f"No answer yet: {content['done']} of {content['total']} runs have ended."]
    if not found["achieved"]:
        return [f"Not achieved at a loss of {bound}: {found['why']}."]
    point = next(point for point in content["points"] if point["value"] == found["value"])
    lost = statistics.mean(-run["validation_change"]["clean"][0] for run in point["runs"])
    moved = f"lost {100 * lost:.1f} there" if lost > 0 else f"lost none there ({100 * -lost:+.1f} points)"
    lines = [
        f"Most robust on validation images at a loss of {bound}: {content['key']} {found['value']:g}, which {moved}."
    ]
    for run in point["runs"]:
        told = list(_told(run))
        seed = f", seed {run['seed']}" if len(point["runs"]) > 1 else ""
        lines.append(f"On test images, against the start{seed}: {'; '.join(told)} (95 % intervals, paired).")
    return lines


def _told(run: Mapping[str, Any]) -> Iterator[str]:
    for where in ("test", "confirmed"):
        for attack, (change, low, high) in (run.get(f"{where}_change") or {}).items():
            if where == "confirmed" and attack == "clean":
                continue
            count, now = run[where]["examples"][attack], run[where]["accuracy"][attack]
            yield (
                f"{attack_name(attack)} {now:.1%}, {100 * change:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}] on "
                f"{count:,} images"
            )


def curve_markdown(content: Mapping[str, Any]) -> str:
    """Return ``curve.md``: the answer, the table and what is needed to believe them."""
    names = list(map(safe, headings(content)))
    lines = [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
    lines += [f"| {' | '.join(map(safe, row))} |" for row in table_rows(content)]
    errors = [
        f"- {safe(run['folder'])} {safe(run['status'])}: {safe(run['error'])}"
        for part in (content["start"], *content["points"])
        for run in part["runs"]
        if run["error"]
    ]
    return (
        "\n".join(
            [
                f"# {safe(content['title'])}",
                "",
                *map(safe, answer_lines(content)),
                "",
                *lines,
                "",
                *marked(content, about(content)),
                *([""] if errors else []),
                *errors,
            ]
        )
        + "\n"
    )


def about(content: Mapping[str, Any]) -> list[str]:
    """Return what was measured, how and where, in lines."""
    runs = [run for part in (content["start"], *content["points"]) for run in part["runs"]]
    images = ", ".join(f"{attack_name(attack)} {count:,}" for attack, count in content["attacks"].items())
    held_out = [run["validation"]["examples"]["clean"] for run in content["start"]["runs"] if run["validation"]]
    data, threat, seeds = content["data"], content["threat"], ", ".join(map(str, content["seeds"]))
    what = f"{content['method']} from {content['student']} on {data['name']}"
    return [
        f"`{content['command']}`: {content['done']} of {content['total']} runs ended.",
        "",
        f"{what}, {data['training_images']:,} training images, {threat['norm']} eps {threat['eps']:.4g}; "
        f"seeds {seeds}; test images: {images}; validation images: {held_out[0] if held_out else NOTHING}.",
        when_and_where(runs),
        "Percent, mean ± sample standard deviation over seeds. The start is the student before training. Epoch and "
        "point are chosen on validation images, which were held out of this training; where a student was pre-trained "
        "on them, its start looks better there than on test images, and the bound is the stricter for it.",
    ]


def curve_csv(content: Mapping[str, Any]) -> str:
    """Return ``curve.csv``: a line a run, shares in [0, 1]."""
    text = io.StringIO()
    attacks = list(content["attacks"])
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        [
            content["key"],
            "seed",
            "status",
            "folder",
            *(f"{attack}_test" for attack in attacks),
            "clean_validation",
            "robust_validation",
            "clean_change_validation",
            *(f"{attack}_change_test{part}" for attack in attacks for part in ("", "_low", "_high")),
            "best_epoch",
            "minutes",
            "chosen",
        ]
    )
    for part in (content["start"], *content["points"]):
        value = part.get("value")
        for run in part["runs"]:
            changes = run.get("test_change") or {}
            validation = (run["validation"] or {"accuracy": {}})["accuracy"]
            writer.writerow(
                [
                    "start" if value is None else f"{value:g}",
                    run["seed"],
                    run["status"],
                    run["folder"],
                    *((run["test"] or {"accuracy": {}})["accuracy"].get(attack) for attack in attacks),
                    validation.get("clean"),
                    validation.get("robust"),
                    (run.get("validation_change") or {"clean": [None]})["clean"][0],
                    *(part for attack in attacks for part in changes.get(attack, (None, None, None))),
                    run["best_epoch"],
                    run["minutes"],
                    int(value is not None and value == content["answer"]["value"]),
                ]
            )
    return text.getvalue()
