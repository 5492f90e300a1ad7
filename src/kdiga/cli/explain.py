"""``kdiga explain TEACHER STUDENT...``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from kdiga.cli.app import app, command_line
from kdiga.cli.model_options import DataName, Device, ModelName, Norm, Normalization, Which
from kdiga.cli.output import Json, Output, Quiet
from kdiga.cli.printing import print_table, say


@app.command()
def explain(
    teacher: ModelName,
    students: Annotated[list[str], typer.Argument(help="Runs' folders or .safetensors files.")],
    data: DataName = None,
    root: Annotated[Path | None, typer.Option(help="Folder that holds the data.")] = None,
    eps: Annotated[
        str | None, typer.Option(help="Size of the ball, pixels in [0, 1]: 8/255. Default: the run's.")
    ] = None,
    norm: Norm = None,
    examples: Annotated[int, typer.Option(min=1, help="Only the first so many test images.")] = 200,
    attack: Annotated[str, typer.Option(help="What robust accuracy is measured by: autoattack, or pgd-40.")] = (
        "autoattack"
    ),
    which: Which = "best",
    weights: Annotated[Path | None, typer.Option(help="State dict of a teacher named by its architecture.")] = None,
    normalization: Normalization = None,
    restarts: Annotated[int, typer.Option(min=1, help="Ascents of each search for the ball's worst images.")] = 3,
    seed: Annotated[int, typer.Option(help="Of random starts and resamples.")] = 0,
    device: Device = "auto",
    out: Annotated[Path, typer.Option(help="Folder for explanation.json, its pictures and what is kept.")] = (
        Path("runs/explain")
    ),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace another explanation in the folder.")] = False,
    pictures: Annotated[int, typer.Option(min=0, help="Examples whose gradients and worst images are kept.")] = 6,
    json_file: Json = None,
    quiet: Quiet = False,
) -> None:
    """Say whether robustness transferred from a teacher to students, how much, and why.

    The same command goes on where an earlier one stopped.

    Example: kdiga explain runs/demo/teacher runs/demo/kd runs/demo/tangent --examples 200
    """
    from kdiga.analysis.worst_case import WorstCaseSearch
    from kdiga.cli.progress import EvaluationProgress
    from kdiga.workflows.explain import FILE, ExplainRequest, explain_runs

    output = Output(json_file, quiet=quiet)
    question = ExplainRequest(
        teacher=teacher,
        students=students,
        out=out,
        data=data,
        root=root,
        eps=eps,
        norm=norm,
        examples=examples,
        attack=attack,
        which=which,
        weights=weights,
        normalization=normalization,
        search=WorstCaseSearch(restarts=restarts),
        seed=seed,
        device=device,
        overwrite=overwrite,
        pictures=pictures,
    )
    with EvaluationProgress(output.console, "explain") as progress:
        content = explain_runs(question, command=command_line(), progress=progress)
    _show(output.console, content)
    say(output.console, f"Written to {out / FILE}.")
    output.result(content, out)


def _show(console: Console, content: dict[str, Any]) -> None:
    threat = content["threat"]
    say(
        console,
        f"{len(content['models'])} models on the first {content['examples']} test images of {content['data']}, "
        f"{threat['norm']} eps {threat['eps']:.4g}; losses in nats",
    )
    print_table(console, _models_table(content))
    if any(ranking["spearman"] is not None for ranking in content["ranking"]):
        print_table(console, _ranking_table(content))
    for sentence in (*content["sentences"], *content["reasons"]):
        say(console, sentence)
    for finding in content["findings"]:
        if finding["verdict"] != "passed":
            say(console, f"{finding['name']} {finding['verdict']}: {finding['message']}", "yellow")


def _models_table(content: dict[str, Any]) -> Table:
    eps, attack = content["threat"]["eps"], content["attack"]
    table = Table()
    headings = (
        "model",
        "clean",
        attack,
        "95 % interval",
        "kept",
        "gamma",
        "eps |g|",
        "cosine",
        "eps |g-gt|",
        "student bound",
        "found",
        "transfer bound",
        "found",
    )
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "model" else "right", no_wrap=True)
    for model in content["models"]:
        gradient, bounds = model["gradient"], model.get("bounds")
        low, high = model["robust"]["interval_95"]
        row = [
            model["name"],
            f"{model['clean']:.1%}",
            f"{model['robust']['accuracy']:.1%}",
            f"{low:.1%} - {high:.1%}",
            _number(model.get("robustness_kept"), ".0%"),
            f"{model['linearity']['mean']:.2f}",
            f"{eps * gradient['norm']:.2f}",
            _number(gradient.get("cosine"), ".2f"),
        ]
        if bounds is not None:
            row += [f"{eps * gradient['distance']:.2f}"]
            row += [f"{bounds[name][what]:.2f}" for name in ("student", "transfer") for what in ("mean", "measured")]
        table.add_row(*row)
    return table


def _ranking_table(content: dict[str, Any]) -> Table:
    table = Table()
    for heading in ("orders students", "rank correlation", "95 % over images", "by chance"):
        table.add_column(heading, justify="left" if heading == "orders students" else "right", no_wrap=True)
    for ranking in content["ranking"]:
        interval = ranking["interval_95"]
        told = "" if interval is None else f"{interval[0]:.2f} - {interval[1]:.2f}"
        table.add_row(ranking["bound"], _number(ranking["spearman"], ".2f"), told, _number(ranking["p_value"], ".2g"))
    return table


def _number(value: float | None, form: str) -> str:
    return "" if value is None else f"{value:{form}}"
