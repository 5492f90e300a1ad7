"""``kdiga certify MODEL``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from kdiga.cli.command import command
from kdiga.cli.judging import model_line, run_judged
from kdiga.cli.output import Output
from kdiga.cli.printing import say, show_table
from kdiga.statistics import clopper_pearson, median_known, percent, percent_interval
from kdiga.workflows.requests import CertifyRequest


@command()
def certify(request: CertifyRequest, output: Output) -> None:
    """Find the radius within which each answer cannot change.

    Depending on the method the radius is proved, holds with a confidence, or is estimated. Results are saved in the run
    folder as work proceeds: after an interruption the same command continues, and two at the same time share the work.

    Example: kdiga certify runs/demo/tangent --against runs/demo/teacher --examples 50
    """
    from kdiga.workflows.certify import run_certification

    run_judged(run_certification, request, output, request.model, partial(_show, radii=_radii(request)))


def _radii(request: CertifyRequest) -> list[float]:
    from kdiga.errors import InputError
    from kdiga.types import parse_number

    if request.radius is None:
        return [request.sigma / 2, request.sigma, 2 * request.sigma]
    radii = [parse_number(part) for part in request.radius.split(",")]
    if not all(value >= 0 for value in radii):
        raise InputError(
            f"radius was {request.radius!r}; radii are at least 0, in pixels in [0, 1], for example 0.25,0.5."
        )
    return radii


def _show(output: Output, content: dict[str, Any], radii: Sequence[float]) -> None:
    from kdiga.results.certificates import CERTIFICATES

    say(output.console, model_line(content))
    show_table(
        output.console,
        ("method", "radius", "certified", "95 % interval", "median radius", "examples", "what it is"),
        (cells for name in CERTIFICATES if name in content for cells in _rows(name, content, radii)),
        words=("method", "what it is"),
    )
    against = content.get("against", {})
    for name in filter(against.get, CERTIFICATES):
        for line in _sentences(name, against):
            say(output.console, line)


def _rows(name: str, results: dict[str, Any], radii: Sequence[float]) -> Iterator[tuple[str, ...]]:
    from kdiga.certification.certificate import certified_accuracy

    content, eps, examples = results[name], results["threat"]["eps"], results["examples"]
    middle = median_known(content["radius"])
    summary = (
        "-" if middle is None else f"{middle:.4g}",
        _without(content, content["radius"], content.get("largest_radius") or content["max_radius"]),
        _kind(name, content),
    )
    wanted = radii if name == "smoothing" else [min(eps, content["max_radius"])]
    for place, at in enumerate(wanted):
        share = content["accuracy"] if name == "interval" and at == eps else certified_accuracy(content["radius"], at)
        interval = percent_interval(clopper_pearson(round(share * examples), examples))
        head = f"{name} {content['norm']}" if place == 0 else ""
        rest = summary if place == 0 else ("", "", "")
        yield head, f"{at:.4g}", percent(share), interval, *rest


def _without(content: dict[str, Any], radii: Sequence[float | None], largest: float) -> str:
    """Return in a few words how many examples have no radius, and how many the largest."""
    parts = [f"{content[name]} {name}" for name in ("wrong", "abstained", "failed") if content.get(name)]
    most = sum(radius is not None and radius >= largest for radius in radii)
    return ", ".join([*parts, *([f"{most} at the largest"] if most else [])]) or "none"


def _kind(name: str, content: dict[str, Any]) -> str:
    if name == "interval":
        return "proof"
    if name == "smoothing":
        return f"smoothed model, confidence {1 - content['alpha']:g} per example"
    goodness = content["goodness"]
    fit = "" if goodness["rejected_share"] is None else f", {percent(goodness['rejected_share'], 0)} of fits rejected"
    return f"estimate, no lower bound{fit}"


def _sentences(name: str, against: dict[str, Any]) -> Iterator[str]:
    found, teacher = against[name], against["teacher"]["model"]
    if found["share_at_least_teacher"] is None:
        yield f"{name} against {teacher}: no example has a radius in both; nothing to compare."
        return
    share, low, high = (percent(one, 0) for one in (found["share_at_least_teacher"], *found["share_interval_95"]))
    yield (
        f"{name} against {teacher}: on {share} (95 % interval {low} - {high}) of the "
        f"{found['compared']} examples with a radius in both, the student's is at least the teacher's."
    )
    alignment = found.get("alignment")
    if alignment is None or alignment["median_rho_over_lipschitz"] is None:
        return
    proved = "bounded by intervals" if name == "interval" else "estimated"
    ratio = alignment["median_guaranteed_over_measured"]
    measured = "" if ratio is None else f", {ratio:.2f} of the student's own radius"
    ratio, gap = alignment["median_rho_over_lipschitz"], alignment["median_margin_gap"]
    middle = median_known([radius for radius in found["guaranteed_radius"] if radius])
    guaranteed = "nothing" if middle is None else f"a radius of {middle:.4g}"
    yield (
        f"  Alignment ({proved}, medians of {alignment['known']} examples): the gradients differ by {ratio:.2f} of the "
        f"teacher's Lipschitz constant, the margins by {gap:+.3g}; that guarantees {guaranteed}{measured}."
    )
