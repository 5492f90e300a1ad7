"""``kdiga certify MODEL_OR_RUN``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from kdiga.cli.app import app, command_line
from kdiga.cli.completion import one_of, several_of
from kdiga.cli.model_options import DataName, Device, ModelName, Normalization, Which
from kdiga.cli.output import Json, Output, Quiet
from kdiga.cli.printing import model_line, print_table, say

if TYPE_CHECKING:
    from kdiga.workflows.certify import CertifyOutcome


@app.command()
def certify(
    model: ModelName,
    against: Annotated[
        str | None, typer.Option(metavar="TEACHER", help="Compare with this run or .safetensors file, by example.")
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            help="Comma-separated: clever (estimate), smoothing (confidence), interval (proof).",
            autocompletion=several_of("clever", "smoothing", "interval"),
        ),
    ] = "clever,smoothing",
    data: DataName = None,
    eps: Annotated[
        str | None, typer.Option(help="Size of the ball, pixels in [0, 1]: 8/255. Default: the run's.")
    ] = None,
    norm: Annotated[
        str | None,
        typer.Option(
            help="linf or l2. Default: the run's, else linf. Smoothing is always l2.",
            autocompletion=one_of("linf", "l2"),
        ),
    ] = None,
    examples: Annotated[int, typer.Option(min=1, help="Only the first so many test images.")] = 100,
    max_radius: Annotated[
        str | None, typer.Option(help="Largest radius of clever, and its ball, and of interval. Default: eps.")
    ] = None,
    clever_batches: Annotated[int, typer.Option(help="Batches of random points, a maximum each.")] = 100,
    clever_batch_size: Annotated[int, typer.Option(help="Random points of a batch.")] = 25,
    sigma: Annotated[float, typer.Option(help="Noise of smoothing, pixels in [0, 1].")] = 0.25,
    samples: Annotated[int, typer.Option(help="Noisy images that bound a probability.")] = 1000,
    selection_samples: Annotated[int, typer.Option(help="Noisy images that select the class.")] = 100,
    alpha: Annotated[float, typer.Option(help="Probability of a wrong radius of smoothing, an example.")] = 0.001,
    radius: Annotated[
        str | None, typer.Option(metavar="R,R,...", help="Show smoothing at these L2 radii. Default: by sigma.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of results and finished portions. Default: in a run.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace other results in the folder.")] = False,
    weights: Annotated[Path | None, typer.Option(help="State dict to put into a named architecture.")] = None,
    normalization: Normalization = None,
    root: Annotated[Path | None, typer.Option(help="Folder that holds the data.")] = None,
    which: Which = "best",
    seed: Annotated[int, typer.Option(help="Of points and noise.")] = 0,
    device: Device = "auto",
    json_file: Json = None,
    quiet: Quiet = False,
) -> None:
    """Find the radius within which each answer cannot change: proved, with a confidence, or estimated.

    The results of a run are kept in its folder, portion by portion: the same command continues after an interruption,
    and started twice it shares the work.

    Example: kdiga certify runs/demo/tangent --against runs/demo/teacher --examples 50
    """
    from kdiga.cli.progress import EvaluationProgress
    from kdiga.workflows.certify import CertifyRequest
    from kdiga.workflows.certify import run_certification as run

    output = Output(json_file, quiet=quiet)
    shown = _radii(radius, sigma)
    request = CertifyRequest(
        model=model,
        methods=[name.strip().lower() for name in method.split(",")],
        against=against,
        data=data,
        root=root,
        eps=eps,
        norm=norm,
        examples=examples,
        which=which,
        weights=weights,
        normalization=normalization,
        seed=seed,
        device=device,
        max_radius=max_radius,
        batches=clever_batches,
        batch_size=clever_batch_size,
        sigma=sigma,
        samples=samples,
        selection_samples=selection_samples,
        alpha=alpha,
        out=out,
        overwrite=overwrite,
    )
    with EvaluationProgress(output.console, model) as progress:
        found = run(request, command=command_line(), progress=progress)
    _show(output.console, found, shown)
    if found.folder is not None:
        say(output.console, f"Kept in {found.folder}.")
    output.result(found.content, found.folder)


def _radii(given: str | None, sigma: float) -> list[float]:
    from kdiga.errors import InputError
    from kdiga.types import parse_number

    if given is None:
        return [sigma / 2, sigma, 2 * sigma]
    radii = [parse_number(part) for part in given.split(",")]
    if not all(value >= 0 for value in radii):
        raise InputError(f"radius was {given!r}; radii are at least 0, in pixels in [0, 1], for example 0.25,0.5.")
    return radii


def _show(console: Console, found: CertifyOutcome, radii: Sequence[float]) -> None:
    content = found.content
    say(console, model_line(content))
    table = Table()
    for heading in ("method", "radius", "certified", "95 % interval", "median radius", "examples", "what it is"):
        table.add_column(heading, justify="left" if heading in ("method", "what it is") else "right")
    for name in found.certificates:
        for cells in _rows(name, found, radii):
            table.add_row(*cells)
    print_table(console, table)
    for name in found.against:
        for line in _sentences(name, content["against"]):
            say(console, line)


def _rows(name: str, found: CertifyOutcome, radii: Sequence[float]) -> Iterator[tuple[str, ...]]:
    from kdiga.certification.certificate import median_known
    from kdiga.statistics import clopper_pearson

    certificate, content = found.certificates[name], found.content[name]
    eps, examples = found.content["threat"]["eps"], found.content["examples"]
    middle = median_known(certificate.radius)
    summary = (
        "-" if middle is None else f"{middle:.4g}",
        _without(content, certificate.radius, content.get("largest_radius") or content["max_radius"]),
        _kind(name, content),
    )
    wanted = radii if name == "smoothing" else [min(eps, content["max_radius"])]
    for place, at in enumerate(wanted):
        share = content["accuracy"] if name == "interval" and at == eps else certificate.accuracy(at)
        low, high = clopper_pearson(round(share * examples), examples)
        head = f"{name} {content['norm']}" if place == 0 else ""
        rest = summary if place == 0 else ("", "", "")
        yield head, f"{at:.4g}", f"{share:.1%}", f"{low:.1%} - {high:.1%}", *rest


def _without(content: dict[str, Any], radii: Sequence[float | None], largest: float) -> str:
    """Return in a few words how many examples have no radius, and how many the largest."""
    parts = [f"{content[name]} {name}" for name in ("wrong", "abstained", "failed") if content.get(name)]
    most = sum(radius is not None and radius >= largest for radius in radii)
    return ", ".join([*parts, *([f"{most} at the largest"] if most else [])]) or "none"


def _kind(name: str, content: dict[str, Any]) -> str:
    if name == "interval":
        return "proof"
    if name == "smoothing":
        return f"smoothed model, confidence {1 - content['alpha']:g} an example"
    goodness = content["goodness"]
    fit = "" if goodness["rejected_share"] is None else f", {goodness['rejected_share']:.0%} of fits rejected"
    return f"estimate, no lower bound{fit}"


def _sentences(name: str, against: dict[str, Any]) -> Iterator[str]:
    found, teacher = against[name], against["teacher"]["model"]
    if found["share_at_least_teacher"] is None:
        yield f"{name} against {teacher}: no example has a radius in both; nothing to compare."
        return
    low, high = found["share_interval_95"]
    yield (
        f"{name} against {teacher}: on {found['share_at_least_teacher']:.0%} (95 % interval {low:.0%} - {high:.0%}) "
        f"of the {found['compared']} examples with a radius in both, the student's is at least the teacher's."
    )
    alignment = found.get("alignment")
    if alignment is None or alignment["median_rho_over_lipschitz"] is None:
        return
    proved = "bounded by intervals" if name == "interval" else "estimated"
    kept = alignment["median_guaranteed_over_measured"]
    measured = "" if kept is None else f", {kept:.2f} of the student's own radius"
    ratio, gap = alignment["median_rho_over_lipschitz"], alignment["median_margin_gap"]
    yield (
        f"  Alignment ({proved}, medians of {alignment['known']} examples): the gradients differ by {ratio:.2f} of the "
        f"teacher's Lipschitz constant, the margins by {gap:+.3g}; that guarantees {_radius(found)}{measured}."
    )


def _radius(found: dict[str, Any]) -> str:
    from kdiga.certification.certificate import median_known

    middle = median_known([radius for radius in found["guaranteed_radius"] if radius])
    return "nothing" if middle is None else f"a radius of {middle:.4g}"
