"""``kdiga export RUN``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from kdiga.cli.app import app, command_line
from kdiga.cli.completion import one_of, several_of
from kdiga.cli.model_options import DataName, ModelName, Norm, Normalization, Which
from kdiga.cli.output import Json, Output, Quiet
from kdiga.cli.printing import model_line, print_table, say
from kdiga.results.attack_names import attack_name


@app.command()
def export(
    model: ModelName,
    to: Annotated[
        str,
        typer.Option(
            metavar="FORMAT,FORMAT,...",
            help="Comma-separated: onnx, torch-export, safetensors, hf.",
            autocompletion=several_of("onnx", "torch-export", "safetensors", "hf"),
        ),
    ],
    out: Annotated[Path | None, typer.Option(help="Folder of the files. Default: export/WHICH in the run.")] = None,
    which: Which = "best",
    int8: Annotated[bool, typer.Option("--int8", help="Also quantise the ONNX file to int8, for phones.")] = False,
    calibration: Annotated[int, typer.Option(help="Training images that int8 takes its scales from.")] = 256,
    data: DataName = None,
    root: Annotated[Path | None, typer.Option(help="Folder that holds the data.")] = None,
    eps: Annotated[
        str | None, typer.Option(help="Size of the ball, pixels in [0, 1]: 8/255. Default: the run's.")
    ] = None,
    norm: Norm = None,
    examples: Annotated[int, typer.Option(help="Test images, the first so many.")] = 1000,
    transfer: Annotated[
        str,
        typer.Option(help="Attacks made on the model and tried on the files: pgd-STEPS, cw-STEPS, autoattack; none."),
    ] = "pgd-40,cw-40",
    score_examples: Annotated[int, typer.Option(help="Test images that Square attacks, the first so many.")] = 200,
    queries: Annotated[int, typer.Option(help="Of Square, an image; 0 leaves it out.")] = 5000,
    weights: Annotated[Path | None, typer.Option(help="State dict to put into a named architecture.")] = None,
    normalization: Normalization = None,
    seed: Annotated[int, typer.Option(help="Of the attacks' random starts.")] = 0,
    device: Annotated[
        str,
        typer.Option(
            help="auto, cpu or cuda, for attacks on the model itself.", autocompletion=one_of("auto", "cpu", "cuda")
        ),
    ] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an export in the folder.")] = False,
    json_file: Json = None,
    quiet: Quiet = False,
) -> None:
    """Write a model for other programs, check each file against it, and measure what the files are worth.

    Example: kdiga export runs/demo/tangent --to onnx,torch-export,hf --int8
    """
    from kdiga.cli.progress import EvaluationProgress
    from kdiga.workflows.export import ExportRequest
    from kdiga.workflows.export import run_export as run

    output = Output(json_file, quiet=quiet)
    request = ExportRequest(
        model=model,
        formats=to.split(","),
        int8=int8,
        calibration=calibration,
        data=data,
        root=root,
        eps=eps,
        norm=norm,
        examples=examples,
        transfer=() if transfer.strip() in ("", "none") else transfer.split(","),
        score_examples=score_examples,
        queries=queries,
        which=which,
        weights=weights,
        normalization=normalization,
        seed=seed,
        device=device,
        out=out,
        overwrite=overwrite,
    )
    with EvaluationProgress(output.console, model) as progress:
        found = run(request, command=command_line(), progress=progress)
    _show(output.console, found.content)
    say(output.console, f"Kept in {found.folder}, with a model card that says how to load each file.")
    output.result(found.content, found.folder)


def _show(console: Console, content: Mapping[str, Any]) -> None:
    say(console, model_line(content, "the first "))
    formats = content["formats"].values()
    attacks = list(dict.fromkeys(name for one in formats for name in one["accuracy"]))
    batches = list(dict.fromkeys(size for one in formats for size in one["latency_ms"]))
    table = Table()
    headings = ["format", "bytes", "differs by", "same class", *map(attack_name, attacks)]
    for heading in (*headings, *(f"ms, batch {size}" for size in batches)):
        table.add_column(heading, justify="left" if heading == "format" else "right")
    for name, one in content["formats"].items():
        table.add_row(*_cells(name, one, attacks, batches))
    print_table(console, table)
    copies = [name for name, one in content["formats"].items() if one["same_as"]]
    if copies:
        say(console, f"{', '.join(copies)}: the model itself, bit for bit, so its figures are those of pytorch.")


def _cells(name: str, one: Mapping[str, Any], attacks: list[str], batches: list[str]) -> Iterator[str]:
    near = one.get("agreement")
    yield name
    yield f"{one['bytes']:,}" if one["bytes"] else ""
    yield f"{near['largest_difference']:.1e}" if near else ""
    yield f"{near['same_class']:.1%}" if near else ""
    for attack in attacks:
        yield f"{one['accuracy'][attack]:.1%}" if attack in one["accuracy"] else ""
    for size in batches:
        found = one["latency_ms"].get(size)
        yield f"{found['median']:.2f} ({found['low']:.2f}-{found['high']:.2f})" if found else ""
