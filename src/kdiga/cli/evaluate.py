"""``kdiga evaluate MODEL_OR_RUN``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from kdiga.cli.app import app, command_line
from kdiga.cli.completion import several_of
from kdiga.cli.model_options import DataName, Device, ModelName, Norm, Normalization, Which
from kdiga.cli.output import Json, Output, Quiet
from kdiga.cli.printing import model_line, print_table, say

VERDICTS = ("passed", "warning", "failed", "skipped")


@app.command()
def evaluate(
    model: ModelName,
    data: DataName = None,
    eps: Annotated[
        str | None, typer.Option(help="Size of the ball, pixels in [0, 1]: 8/255. Default: the run's.")
    ] = None,
    norm: Norm = None,
    attacks: Annotated[
        str,
        typer.Option(
            help="Comma-separated: clean, fgsm, pgd-STEPS, cw-STEPS, pgd-STEPSxRESTARTS, autoattack.",
            autocompletion=several_of("clean", "fgsm", "pgd-20", "cw-20", "autoattack"),
        ),
    ] = "clean,fgsm,pgd-20,autoattack",
    examples: Annotated[int | None, typer.Option(help="Only the first so many test images.")] = None,
    sweep: Annotated[
        str | None, typer.Option(metavar="EPS,EPS,...", help="Also the accuracy at each of these eps, or `auto`.")
    ] = None,
    sweep_attack: Annotated[str, typer.Option(help="Attack of the sweep.")] = "pgd-20",
    checks: Annotated[
        bool | None,
        typer.Option("--checks/--no-checks", help="Look for masked gradients. Default: where autoattack runs."),
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(help="A run whose adversarial images the checks try on the model.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of results and finished portions. Default: in a run.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace other results in the folder.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes that share the work, of one thread each.")] = 1,
    batch_size: Annotated[int, typer.Option(min=1, help="Examples attacked, and kept, together.")] = 500,
    weights: Annotated[Path | None, typer.Option(help="State dict to put into a named architecture.")] = None,
    normalization: Normalization = None,
    root: Annotated[Path | None, typer.Option(help="Folder that holds the data.")] = None,
    which: Which = "best",
    version: Annotated[str, typer.Option(help="AutoAttack's version: standard, plus, rand.")] = "standard",
    seed: Annotated[int, typer.Option(help="Of the attacks' random starts.")] = 0,
    device: Device = "auto",
    json_file: Json = None,
    quiet: Quiet = False,
) -> None:
    """Measure clean and robust accuracy on the test set, with 95 % intervals.

    The results of a run are kept in its folder, as soon as each attack is done with a batch: the same command
    continues after an interruption, and started twice it shares the work.

    Example: kdiga evaluate runs/demo/tangent --attacks clean,pgd-40x3,autoattack --examples 200 --sweep auto
    """
    from kdiga.cli.progress import EvaluationProgress
    from kdiga.workflows.evaluate import EvaluateRequest, run_evaluation

    output = Output(json_file, quiet=quiet)
    request = EvaluateRequest(
        model=model,
        attacks=attacks.split(","),
        data=data,
        root=root,
        eps=eps,
        norm=norm,
        examples=examples,
        which=which,
        weights=weights,
        normalization=normalization,
        version=version,
        seed=seed,
        batch_size=batch_size,
        device=device,
        sweep=sweep,
        sweep_attack=sweep_attack,
        out=out,
        overwrite=overwrite,
        teacher=teacher,
        checks="autoattack" in attacks.lower() if checks is None else checks,
    )
    with EvaluationProgress(output.console, model) as progress:
        found = run_evaluation(request, workers=workers, command=command_line(), progress=progress)
    _show(output.console, found.content)
    if found.folder is not None:
        say(output.console, f"Kept in {found.folder}.")
    output.result(found.content, found.folder)


def _show(console: Console, content: Mapping[str, Any]) -> None:
    say(console, model_line(content))
    table = Table()
    for heading in ("attack", "accuracy", "95 % interval", "seconds"):
        table.add_column(heading, justify="left" if heading == "attack" else "right")
    for cells in _rows(content):
        table.add_row(*cells)
    print_table(console, table)
    for finding in content.get("findings", []):
        if finding["verdict"] in ("failed", "warning"):
            say(console, f"{finding['name']} {finding['verdict']}: {finding['message']}", style="yellow")
    counts = Counter(finding["verdict"] for finding in content.get("findings", []))
    if counts:
        told = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict])
        say(console, f"checks for masked gradients: {told}")
    for name, notes in content["notes"].items():
        for note in notes:
            say(console, f"{name}: {note}", style="yellow")


def _rows(content: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for name, accuracy in content["accuracy"].items():
        low, high = content["interval_95"][name]
        yield name, f"{accuracy:.1%}", f"{low:.1%} - {high:.1%}", f"{content['seconds'][name]:.1f}"
        for stage, left in content["stages"].get(name, {}).items():
            yield f"  after {stage}", f"{left:.1%}", "", ""
    curve = content.get("sweep")
    if curve is not None:
        for eps, accuracy, (low, high) in zip(curve["eps"], curve["accuracy"], curve["interval_95"], strict=True):
            yield f"{curve['attack']} at eps {eps:.4g}", f"{accuracy:.1%}", f"{low:.1%} - {high:.1%}", ""
