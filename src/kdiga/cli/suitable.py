"""``kdiga suitable TEACHER``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from kdiga.cli.app import app, command_line
from kdiga.cli.model_options import DataName, Device, ModelName, Norm, Normalization, Which
from kdiga.cli.output import Json, Output, Quiet
from kdiga.cli.printing import model_line, print_table, say

FILE = "suitability.json"


@app.command()
def suitable(
    teacher: ModelName,
    data: DataName = None,
    root: Annotated[Path | None, typer.Option(help="Folder that holds the data.")] = None,
    eps: Annotated[
        str | None, typer.Option(help="Size of the ball, pixels in [0, 1]: 8/255. Default: the run's.")
    ] = None,
    norm: Norm = None,
    examples: Annotated[int, typer.Option(min=1, help="Only the first so many test images.")] = 500,
    which: Which = "best",
    weights: Annotated[Path | None, typer.Option(help="State dict to put into a named architecture.")] = None,
    normalization: Normalization = None,
    restarts: Annotated[int, typer.Option(min=1, help="Ascents of each search for the ball's worst images.")] = 3,
    seed: Annotated[int, typer.Option(help="Of random starts.")] = 0,
    device: Device = "auto",
    out: Annotated[Path | None, typer.Option(help="Folder of the result. Default: in a run.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace other results in the folder.")] = False,
    json_file: Json = None,
    quiet: Quiet = False,
) -> None:
    """Say before any training whether a teacher is worth distilling.

    Example: kdiga suitable runs/demo/teacher --examples 500
    """
    from kdiga.analysis.suitable import suitable as examine
    from kdiga.analysis.worst_case import WorstCaseSearch
    from kdiga.cli.progress import EvaluationProgress
    from kdiga.data.image_set import to_pixels
    from kdiga.results.evaluations import SuitabilityResult
    from kdiga.runs.provenance import provenance
    from kdiga.runs.work_units import FOLDER, ResultCache
    from kdiga.workflows.loaded_model import (
        check_earlier_result,
        default_folder,
        load_judged_model,
        load_test_set,
        make_folder,
    )

    output = Output(json_file, quiet=quiet)
    search = WorstCaseSearch(restarts=restarts)
    test_set = load_test_set([teacher], data=data, root=root, eps=eps, norm=norm, examples=examples)
    loaded = load_judged_model(
        teacher, test_set, which=which, weights=weights, normalization=normalization, device=device, role="teacher"
    )
    folder = out or default_folder(teacher, "suitability", test_set, which)
    asked = {
        "kind": "suitability",
        **test_set.about(),
        "seed": seed,
        "search": search.to_dict(),
        "fingerprint": loaded.about["fingerprint"],
    }
    if folder is not None:
        make_folder(folder)
        check_earlier_result(folder / FILE, asked, overwrite=overwrite)
    with EvaluationProgress(output.console, teacher) as progress:
        found = examine(
            loaded.model,
            to_pixels(test_set.images.images),
            test_set.images.labels,
            threat=test_set.threat,
            seed=seed,
            search=search,
            result_cache=ResultCache(None if folder is None else folder / FOLDER),
            on_progress=progress,
        )
    content = asked | {"command": command_line()} | loaded.about | found.to_dict()
    content["provenance"] = provenance(next(loaded.model.parameters()).device)
    _show(output.console, content)
    if folder is not None:
        SuitabilityResult.model_validate(content).write(folder / FILE, indent=2)
        say(output.console, f"Kept in {folder}.")
    output.result(content, folder)


def _show(console: Console, content: Mapping[str, Any]) -> None:
    say(console, model_line(content, "the first "))
    table = Table()
    for heading in ("check", "verdict", "found"):
        table.add_column(heading, no_wrap=heading != "found")
    for finding in content["findings"]:
        table.add_row(finding["name"], finding["verdict"], finding["message"].replace("[", "\\["))
    print_table(console, table)
    say(console, content["sentence"])
