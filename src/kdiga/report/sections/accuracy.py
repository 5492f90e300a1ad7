"""Accuracies: the table of models, accuracy against eps, and accuracy against the cost of training."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from kdiga.report import charts
from kdiga.report.blocks import NO_VALUE, Items, Key, ListItem, Plot, Section, Table, TableCell, key_of, mark
from kdiga.report.differences import AccuracyDifference
from kdiga.report.glossary import definitions
from kdiga.report.groups import ModelGroup, ReportedModel
from kdiga.report.tables import signed, span
from kdiga.report.verdict import GroupVerdict
from kdiga.results.attack_names import attack_name, eps_text, strength, strongest
from kdiga.results.evaluations import CorruptionRecord
from kdiga.results.runs import RunResult
from kdiga.results.shared import Accuracy, AccuracyCurve
from kdiga.statistics import percent

COSTS: tuple[tuple[str, Callable[[RunResult], float | None]], ...] = (
    ("network passes in training", lambda run: run.passes),
    ("minutes of training", lambda run: run.minutes),
)
ModelCurve = tuple[ReportedModel, AccuracyCurve]


def models_section(group: ModelGroup, verdict: GroupVerdict) -> Section:
    """Return the table of models, teachers first, then the most robust first."""
    attacks = sorted({attack for one in group.members for attack in one.accuracy}, key=strength)
    counts = {attack: {found.images for one in group.members if (found := one.under(attack))} for attack in attacks}
    costs = any(one.run and one.run.minutes is not None for one in group.members)
    against = [found for found in (verdict.against_teacher, verdict.against_plain) if found]
    attacks.sort(key=lambda attack: (attack != group.attack, [-rank for rank in strength(attack)]))
    head = [*map(attack_name, attacks), "parameters", *["training"] * costs]
    head[1:1] = [f"vs {'teacher' if found is verdict.against_teacher else verdict.plain}, points" for found in against]
    rows = [
        [
            TableCell(one.name, _about(one, group), mark=mark(one.place)),
            *(_accuracy_cell(one.under(attack), len(counts[attack]) > 1) for attack in attacks[:1]),
            *(_difference_cell(found.get(one.name)) for found in against),
            *(_accuracy_cell(one.under(attack), len(counts[attack]) > 1) for attack in attacks[1:]),
            NO_VALUE if one.parameters is None else TableCell(f"{one.parameters:,}"),
            *([_cost_cell(one)] * costs),
        ]
        for one in group.members
    ]
    images = "; ".join(
        f"{attack_name(attack)} {next(iter(found)):,}" for attack, found in counts.items() if len(found) == 1
    )
    lead = "Small numbers are 95 % intervals over the test images; they do not cover the spread between seeds."
    words = definitions([one.method for one in group.members], attacks)
    meanings = [Items([ListItem(meaning, title=name) for name, meaning in words])] * bool(words)
    table = Table(["model", *head], rows)
    return Section("Models", [table, *meanings], [lead + (f" Images: {images}." if images else "")])


def _about(one: ReportedModel, group: ModelGroup) -> str:
    role = "teacher" if one in group.teachers else ""
    if one.taught_by and one.taught_by != (group.teacher.name if group.teacher else None):
        role = f"taught by {one.taught_by}"
    elif not role and one.run and not one.taught_by and group.teacher:
        role = "no teacher"
    architecture = one.identity.architecture or (one.run.architecture if one.run else "")
    which = "last weights" if one.identity.which == "last" else ""
    return ", ".join(part for part in (role, one.method, architecture, which) if part)


def _accuracy_cell(found: Accuracy | None, count: bool) -> TableCell:
    if found is None:
        return NO_VALUE
    images = f" ({found.images:,} images)" if count else ""
    worst = "" if found.worst_class is None else f"; {_unbroken(f'worst class {percent(found.worst_class)}')}"
    return TableCell(percent(found.value), span(found.interval) + images + worst, found.value)


def _difference_cell(found: AccuracyDifference | None) -> TableCell:
    if found is None:
        return NO_VALUE
    remarks = ", not paired" * (not found.paired) + ", not significant" * (found.sign == 0)
    return TableCell(signed(found.value), _unbroken(f"{signed(found.low)} to {signed(found.high)}") + remarks)


def _unbroken(text: str) -> str:
    """Return a text without places where a line may end."""
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def _cost_cell(one: ReportedModel) -> TableCell:
    if one.run is None or one.run.minutes is None:
        return NO_VALUE
    passes = _unbroken(f"{one.run.passes:,} passes") if one.run.passes else ""
    return TableCell(f"{one.run.minutes:.2f} min", passes)


def sweep_section(group: ModelGroup, *, first: bool) -> Section | None:
    """Return accuracy against eps, a figure an attack; None if no model was evaluated at several eps.

    The first group of its data and norm also shows evaluations at other eps.
    """
    by_attack: dict[str, list[ModelCurve]] = defaultdict(list)
    for member in group.members:
        if member.place is not None and (found := _curve_of(member, first=first)):
            by_attack[found.attack].append((member, found))
    if not by_attack:
        return None
    return Section("Accuracy against eps", [_sweep_plot(group, attack, found) for attack, found in by_attack.items()])


def _curve_of(member: ReportedModel, *, first: bool) -> AccuracyCurve | None:
    for evaluation in member.evaluations:
        if evaluation.sweep is not None:
            return evaluation.sweep.curve
    return _joined_curve(member) if first else None


def _joined_curve(member: ReportedModel) -> AccuracyCurve | None:
    """Join evaluations at several eps to one curve of the strongest attack that most of them have, clean at 0."""
    places: dict[str, dict[float, Accuracy]] = defaultdict(dict)
    for evaluation in [*member.evaluations, *member.at_other_eps]:
        for attack, accuracy in evaluation.measured.items():
            known = places[attack].get(evaluation.threat.eps)
            if known is None or known.images < accuracy.images:
                places[attack][evaluation.threat.eps] = accuracy
    most = max((len(points) for attack, points in places.items() if attack != "clean"), default=0)
    if most < 2:
        return None
    attack = strongest(name for name, points in places.items() if len(points) == most) or ""
    points = dict(places[attack])
    if places["clean"]:
        points[0.0] = max(places["clean"].values(), key=lambda accuracy: accuracy.images)
    at = tuple(sorted(points))
    return AccuracyCurve(at, tuple(points[eps].value for eps in at), tuple(points[eps].interval for eps in at), attack)


def _sweep_plot(group: ModelGroup, attack: str, found: Sequence[ModelCurve]) -> Plot:
    figure, axes = charts.axes_of()
    charts.dotted_line(axes, group.conditions.eps)
    for member, curve in found:
        charts.draw_line(axes, member.place, curve.at, curve.accuracy, intervals=curve.intervals)
    axes.set(xlabel=f"eps ({group.conditions.norm}, pixels in [0, 1])", xlim=(0, None))
    axes.set_ylabel(f"accuracy under {attack_name(attack)}")
    charts.percent_axis(axes)
    svg = charts.inline_svg(figure, f"sweep {attack} {group.conditions.key}")
    alt = "; ".join(
        f"{member.name} falls from {percent(curve.accuracy[0])} at eps {eps_text(curve.at[0])} to "
        f"{percent(curve.accuracy[-1])} at eps {eps_text(curve.at[-1])}"
        for member, curve in found
    )
    return Plot(
        title=f"Accuracy under {attack_name(attack)} as eps grows",
        svg=svg,
        alt=f"Accuracy under {attack_name(attack)} against eps. {alt}.",
        keys=[key_of(member) for member, _ in found],
        caption=f"Dotted line: eps {eps_text(group.conditions.eps)} of the threat model."
        + (" Bars are 95 % intervals." if any(curve.intervals for _, curve in found) else "")
        + " A curve that does not approach 0 for large eps is a sign of masked gradients.",
        numbers=_sweep_numbers(found),
    )


def _sweep_numbers(found: Sequence[ModelCurve]) -> Table:
    at = sorted({eps for _, curve in found for eps in curve.at})
    rows: list[list[TableCell]] = []
    for member, curve in found:
        known = {
            eps: TableCell(percent(value), span(curve.intervals[row]) if curve.intervals else "")
            for row, (eps, value) in enumerate(zip(curve.at, curve.accuracy, strict=True))
        }
        rows.append([TableCell(member.name), *(known.get(eps, NO_VALUE) for eps in at)])
    return Table(["model", *(f"eps {eps_text(eps)}" for eps in at)], rows)


def corruptions_section(group: ModelGroup) -> Section | None:
    """Return accuracy under common corruptions; None if no model was evaluated under them."""
    found = [(one, done) for one in group.members for each in one.evaluations if (done := each.corruptions) is not None]
    if not found:
        return None
    names = list(dict.fromkeys(name for _, done in found for name in done.means))
    rows = [
        [
            TableCell(one.name, mark=mark(one.place)),
            TableCell(percent(done.mean), _corrupted(done), done.mean),
            *(TableCell(percent(done.means[name])) if name in done.means else NO_VALUE for name in names),
        ]
        for one, done in found
    ]
    table = Table(["model", "mean", *(name.replace("_", " ") for name in names)], rows)
    lead = (
        f"Means over severity 1 to 5, with the strengths of {found[0][1].strengths_of}, over {len(names)} corruptions; "
    )
    lead += "means over all fifteen of the benchmark are other numbers."
    return Section("Accuracy under common corruptions", [table], [lead])


def _corrupted(done: CorruptionRecord) -> str:
    worst = "" if done.worst_class is None else f"; worst class {percent(done.worst_class.accuracy)}"
    return span(done.interval_95) + worst


def costs_section(group: ModelGroup) -> Section | None:
    """Return robust accuracy against passes, or minutes where passes are unknown; None unless two models have both."""
    for name, cost in COSTS:
        points = [
            (member, spent, found)
            for member in group.students
            if (found := member.under(group.attack)) and member.run and (spent := cost(member.run))
        ]
        if len(points) > 1:
            lead = ["The cost is that of a student's training; its teacher's training is not counted."]
            return Section("Robustness and training cost", [_cost_plot(group, name, points)], lead)
    return None


def _cost_plot(group: ModelGroup, name: str, points: Sequence[tuple[ReportedModel, float, Accuracy]]) -> Plot:
    attack = attack_name(group.attack or "")
    teacher = group.teacher.under(group.attack) if group.teacher else None
    spent = [cost for _, cost, _ in points]
    figure, axes = charts.axes_of()
    if teacher:
        axes.axhline(teacher.value, color=charts.INK, linewidth=1.3, linestyle="--")
    for member, cost, found in reversed(points):
        grey = member.place is None
        axes.errorbar(
            cost,
            found.value,
            yerr=charts.bars([found.value], [found.interval]),
            linestyle="none",
            capsize=2.5,
            color=charts.colour(member.place),
            elinewidth=0.6 if grey else 1.2,
            marker="." if member.place is None else charts.marker(member.place),
            alpha=0.55 if grey else 1,
        )
    charts.cost_axis(axes, spent)
    axes.set(xlabel=name, ylabel=f"accuracy under {attack}")
    charts.percent_axis(axes)
    svg = charts.inline_svg(figure, f"cost {name} {group.conditions.key}")
    best, cheapest = max(points, key=lambda point: point[2].value), min(points, key=lambda point: point[1])
    alt = (
        f"{attack} accuracy of {len(points)} students against {name}, from {min(spent):,.4g} to {max(spent):,.4g}. "
        f"Most robust: {best[0].name}, {percent(best[2].value)} at {best[1]:,.4g}. "
        f"Cheapest: {cheapest[0].name}, {percent(cheapest[2].value)} at {cheapest[1]:,.4g}."
    )
    keys = [key_of(member) for member, _, _ in points if member.place is not None]
    others = len(points) - len(keys)
    rows = [
        [TableCell(member.name), TableCell(f"{cost:,.4g}"), TableCell(percent(found.value), span(found.interval))]
        for member, cost, found in points
    ]
    return Plot(
        title=f"Robust accuracy against {name}",
        svg=svg,
        alt=alt + (f" The teacher has {percent(teacher.value)}." if teacher else ""),
        keys=[*keys, Key(f"{others} others", mark(None))] if others else keys,
        caption=("Dashed line: the teacher. " if teacher else "") + "Bars are 95 % intervals over test images.",
        numbers=Table(["model", name, attack], rows),
    )
