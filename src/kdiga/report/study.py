"""A study's tables and picture, from its ``study.json`` alone."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdiga.errors import InputError
from kdiga.io.markdown import code, safe
from kdiga.io.safe_json_yaml import load_json
from kdiga.report.plots import replace_file, to_svg
from kdiga.report.scatter import scatter
from kdiga.report.validation import record
from kdiga.results.attack_names import attack_name

NOTHING = "-"
OF_A_RUN = ("seed", "status", "folder", "epochs", "best_epoch", "parameters", "minutes")
COSTS = ("minutes", "student passes", "teacher passes")


@dataclass(frozen=True)
class MeanAndRange:
    """Mean and sample standard deviation of a few numbers.

    Args:
        mean: of them.
        deviation: with n - 1 in the denominator; None for a single number.
        n: how many.
    """

    mean: float
    deviation: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> MeanAndRange | None:
        """Return the spread of some numbers; None for none."""
        if not values:
            return None
        return cls(statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))

    def percent(self) -> str:
        """Return it as text in percent."""
        deviation = "" if self.deviation is None else f" ± {100 * self.deviation:.1f}"
        return f"{100 * self.mean:.1f}{deviation}"


@dataclass(frozen=True)
class Row:
    """A label's line of the table.

    Args:
        label: of a method or a teacher.
        teacher: whether it is a teacher of the study.
        runs: how many are finished, and what became of the others.
        accuracy: by weights and attack, such as ("best", "clean").
        costs: minutes and passes of a run, means over seeds; None where not measured.
    """

    label: str
    teacher: bool
    runs: str
    accuracy: Mapping[tuple[str, str], MeanAndRange | None]
    costs: Mapping[str, float | None]

    def texts(self) -> list[str]:
        """Return the line's fields."""
        name = f"{self.label} (teacher)" if self.teacher else self.label
        scores = [NOTHING if spread is None else spread.percent() for spread in self.accuracy.values()]
        minutes, *passes = self.costs.values()
        return [
            name,
            self.runs,
            *scores,
            NOTHING if minutes is None else f"{minutes:.2f}",
            *(NOTHING if count is None else f"{count:,.0f}" for count in passes),
        ]


def read_study(folder: Path) -> dict[str, Any]:
    """Return ``study.json``'s content.

    Raises:
        InputError: if there is none.
    """
    path = folder / "study.json"
    try:
        return dict(record(load_json(path), "the study"))
    except (OSError, ValueError) as error:
        raise InputError(f"{str(path)!r} has no readable study ({error}); run `kdiga study FILE`.") from None


def table_rows(content: Mapping[str, Any]) -> list[Row]:
    """Return the table of a study, teachers first."""
    keys = [(which, attack) for which in content["which"] for attack in content["attacks"]]
    entries = [(entry, True) for entry in content["teachers"]] + [(entry, False) for entry in content["methods"]]
    return [_row(entry, keys, teacher=teacher) for entry, teacher in entries]


def headings(content: Mapping[str, Any]) -> list[str]:
    """Return the names of the table's columns."""
    scores = [f"{attack_name(attack)}, {which}" for which in content["which"] for attack in content["attacks"]]
    return ["method", "runs", *scores, *COSTS]


def passes_of(run: Mapping[str, Any], role: str) -> int | None:
    """Return the network passes of a run's student or teacher, forwards and backwards; None where not counted."""
    passes = run.get("passes")
    return None if not passes else passes[f"{role}_forwards"] + passes[f"{role}_backwards"]


def _row(entry: Mapping[str, Any], keys: Sequence[tuple[str, str]], *, teacher: bool) -> Row:
    runs: list[dict[str, Any]] = entry["runs"]
    done = [run for run in runs if run["status"] == "done"]
    others = [f"{n} {state}" for state in ("diverged", "failed") if (n := sum(run["status"] == state for run in runs))]
    accuracy = {
        key: MeanAndRange.of(
            [run["accuracy"][key[0]][key[1]] for run in done if key[1] in run["accuracy"].get(key[0], {})]
        )
        for key in keys
    }
    values: dict[str, list[float | None]] = {
        "minutes": [run["minutes"] for run in done],
        **{f"{role} passes": [passes_of(run, role) for run in done] for role in ("student", "teacher")},
    }
    costs = {name: _mean(found) for name, found in values.items()}
    return Row(entry["label"], teacher, ", ".join([f"{len(done)}/{len(runs)}", *others]), accuracy, costs)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.mean(known) if known and len(known) == len(values) else None


def write_tables(folder: Path, *, pictures: bool = True) -> None:
    """Write ``cells.csv``, ``table.md``, ``scatter.png`` and ``scatter.svg`` from ``study.json``.

    Args:
        folder: of the study.
        pictures: False leaves the pictures as they are; drawing them takes seconds.

    Raises:
        InputError: if there is no readable ``study.json``.
    """
    content = read_study(folder)
    replace_file(folder / "cells.csv", _cells_csv(content).encode())
    replace_file(folder / "table.md", table_markdown(content).encode())
    if not pictures:
        return
    figure = scatter(content, [(row, cost_points(row)) for row in table_rows(content)])
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=130)
    replace_file(folder / "scatter.png", picture.getvalue())
    replace_file(folder / "scatter.svg", to_svg(figure).encode())


def _cells_csv(content: Mapping[str, Any]) -> str:
    text = io.StringIO()
    keys = [(which, attack) for which in content["which"] for attack in content["attacks"]]
    writer = csv.writer(text, lineterminator="\n")
    scores = [f"{attack}_{which}" for which, attack in keys]
    writer.writerow(["label", "role", "method", *OF_A_RUN, "student_passes", "teacher_passes", *scores, "error"])
    for role in ("teachers", "methods"):
        for entry in content[role]:
            for run in entry["runs"]:
                writer.writerow(
                    [
                        entry["label"],
                        role[:-1],
                        entry["method"],
                        *(run[key] for key in OF_A_RUN),
                        passes_of(run, "student"),
                        passes_of(run, "teacher"),
                        *(run["accuracy"].get(which, {}).get(attack) for which, attack in keys),
                        run["error"],
                    ]
                )
    return text.getvalue()


def table_markdown(content: Mapping[str, Any]) -> str:
    """Return ``table.md``: the table and what is needed to believe it."""
    names = list(map(safe, headings(content)))
    lines = [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
    lines += [f"| {' | '.join(map(safe, row.texts()))} |" for row in table_rows(content)]
    return (
        "\n".join(
            [f"# {safe(content['title'])}", "", *marked(content, about(content)), "", *lines, "", *_remarks(content)]
        )
        + "\n"
    )


def marked(content: Mapping[str, Any], lines: Sequence[str]) -> list[str]:
    """Return lines about a result as Markdown: its command as code, the rest as text."""
    command = f"`{content['command']}`"
    return [
        code(content["command"]) + safe(line.removeprefix(command)) if line.startswith(command) else safe(line)
        for line in lines
    ]


def about(content: Mapping[str, Any]) -> list[str]:
    """Return what was compared, how and where, in lines."""
    runs = [run for role in ("teachers", "methods") for entry in content[role] for run in entry["runs"]]
    images = ", ".join(f"{attack_name(attack)} {count:,}" for attack, count in content["attacks"].items())
    data, threat = content["data"], content["threat"]
    return [
        f"`{content['command']}`: {content['done']} of {content['total']} cells finished.",
        "",
        f"{data['name']}, {data['training_images']:,} training images, {threat['norm']} eps {threat['eps']:.4g}; "
        f"seeds {', '.join(map(str, content['seeds']))}; test images: {images}.",
        when_and_where(runs),
        "Percent, mean ± sample standard deviation over seeds; minutes and passes are a run's training, means over "
        "seeds; a pass is one forward or backward of a batch. Best is chosen on validation images.",
    ]


def when_and_where(runs: Sequence[Mapping[str, Any]]) -> str:
    """Return when and on what runs were made, of those that have ended, in a sentence."""
    dates = sorted(run["date"][:10] for run in runs if run["date"])
    hardware = dict.fromkeys(hardware_line(run["hardware"]) for run in runs if run["hardware"])
    when = NOTHING if not dates else dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    return f"{when}; {'; '.join(hardware) or NOTHING}."


def hardware_line(hardware: Mapping[str, Any]) -> str:
    """Return what a run was computed on, in words."""
    device = f", {hardware['accelerator']}" if hardware["accelerator"] else ", no GPU"
    threads = "1 thread" if hardware["threads"] == 1 else f"{hardware['threads']} threads"
    return f"{hardware['processor']}, {hardware['cores']} cores, {threads} a run{device}"


def _remarks(content: Mapping[str, Any]) -> Iterator[str]:
    for role in ("teachers", "methods"):
        for entry in content[role]:
            for run in entry["runs"]:
                if run["error"]:
                    yield f"- {safe(run['folder'])} {safe(run['status'])}: {safe(run['error'])}"
            chosen = (entry.get("tuning") or {}).get("chosen")
            if chosen:
                yield f"- {safe(entry['label'])}: {safe(_choice(chosen, len(entry['tuning']['trials'])))}"


def _choice(chosen: Mapping[str, Any], trials: int) -> str:
    values = ", ".join(f"{name} {value:g}" for name, value in chosen["coefficients"].items())
    if chosen["robust"] is None:
        return f"{values}, as given, for all {trials} trials diverged"
    return f"{values}, the best of {trials} trials on validation images ({chosen['robust']:.1%} robust)"


def cost_points(row: Row) -> dict[str, float | None]:
    """Return a line's costs as the scatter shows them, by name."""
    passes = [row.costs[f"{role} passes"] for role in ("student", "teacher")]
    total = None if None in passes else sum(count or 0.0 for count in passes)
    return {"network passes in training": total, "minutes of training": row.costs["minutes"]}
