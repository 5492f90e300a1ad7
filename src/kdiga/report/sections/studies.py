"""A study: its table and its picture, over all methods and seeds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from kdiga.report.scatter import scatter
from kdiga.report.sections.parts import Plot, Section, Table, TableCell
from kdiga.report.study import about, cost_points, headings, table_rows
from kdiga.report.theme import drawing, inline_svg, short_key
from kdiga.results.attack_names import attack_name


def study_section(folder: Path, content: Mapping[str, Any]) -> Section:
    """Return a study's section.

    Args:
        folder: of the study.
        content: of its ``study.json``.
    """
    rows = table_rows(content)
    lines = [line.replace("`", "") for line in about(content) if line]
    table = Table(headings(content), [[TableCell(text) for text in row.texts()] for row in rows])
    figures = [_plot(folder, content, rows)] if any(any(row.accuracy.values()) for row in rows) else []
    return Section(f"Study: {content.get('title') or folder.name}", [table, *figures], lines)


def _plot(folder: Path, content: Mapping[str, Any], rows: list[Any]) -> Plot:
    with drawing():
        figure = scatter(content, [(row, cost_points(row)) for row in rows], stacked=True)
        svg = inline_svg(figure, short_key(f"study {folder}"))
    attack = list(content["attacks"])[-1]
    which = "best" if "best" in content["which"] else content["which"][0]
    scored = [
        (row.label, found.mean) for row in rows if (found := row.accuracy.get((which, attack))) and not row.teacher
    ]
    best = sorted(scored, key=lambda entry: -entry[1])[:5]
    listed = ", ".join(f"{label} {100 * mean:.1f} %" for label, mean in best)
    return Plot(
        title="Robust accuracy against training cost, over all seeds",
        svg=Markup(svg),
        alt=f"{attack_name(attack)} accuracy of {len(scored)} methods against training cost. Most robust: {listed}.",
        caption="Bars are sample standard deviations over seeds; dashed lines are teachers.",
        commands=[str(content.get("command", ""))] if content.get("command") else [],
        wide=True,
        least=42,
    )
