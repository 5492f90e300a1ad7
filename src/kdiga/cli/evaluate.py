"""``kdiga evaluate MODEL_OR_RUN``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from kdiga.cli.app import app

if TYPE_CHECKING:
    from kdiga.config import DataConfig


@app.command()
def evaluate(
    model: Annotated[
        str, typer.Argument(help="A run's folder, a .safetensors file, or an architecture with --weights.")
    ],
    data: Annotated[str | None, typer.Option(help="Data set; default: the run's own.")] = None,
    eps: Annotated[
        str | None, typer.Option(help="Size of the ball, pixels in [0, 1]: 8/255. Default: the run's.")
    ] = None,
    norm: Annotated[str | None, typer.Option(help="linf or l2. Default: the run's, else linf.")] = None,
    attacks: Annotated[str, typer.Option(help="Comma-separated: clean, fgsm, pgd-STEPS, autoattack.")] = (
        "clean,fgsm,pgd-20,autoattack"
    ),
    examples: Annotated[int | None, typer.Option(help="Only the first so many test images.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the result there.")] = None,
    weights: Annotated[Path | None, typer.Option(help="State dict to put into a named architecture.")] = None,
    normalization: Annotated[str | None, typer.Option(help="none, imagenet, cifar10 or half, with --weights.")] = None,
    root: Annotated[Path | None, typer.Option(help="Folder that holds the data.")] = None,
    which: Annotated[str, typer.Option(help="best or last weights of a run.")] = "best",
    version: Annotated[str, typer.Option(help="AutoAttack's version: standard, plus, rand.")] = "standard",
    seed: Annotated[int, typer.Option(help="Of the attacks' random starts.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Measure clean and robust accuracy on the test set, with 95 % intervals.

    Example: kdiga evaluate runs/demo/tangent --attacks clean,pgd-40,autoattack --examples 200
    """
    import kdiga
    from kdiga.cli.progress import EvaluationProgress
    from kdiga.config.run import check_fits
    from kdiga.evaluation import attack_by_name
    from kdiga.models import count_parameters
    from kdiga.training.runtime import device_by_name
    from kdiga.types import ThreatModel

    for name in attacks.split(","):
        attack_by_name(name, version=version)
    recipe = _run_of(Path(model))
    chosen = _data_of(recipe, data, root)
    threat = ThreatModel.parse(
        norm or recipe.get("threat", {}).get("norm", "linf"),
        recipe.get("threat", {}).get("eps", "8/255") if eps is None else eps,
    )
    images = kdiga.load_data(chosen.name, root=chosen.root, image_size=chosen.image_size).test
    shape: dict[str, Any] = {}
    if weights is not None:
        shape = {"num_classes": images.num_classes, "in_channels": images.in_channels, "image_size": images.image_size}
    classifier = kdiga.load_model(model, weights=weights, normalization=normalization, which=which, **shape)
    check_fits("model", classifier, images)
    console = Console()
    with EvaluationProgress(console, model) as progress:
        report = kdiga.evaluate(
            classifier.to(device_by_name(device)), images.batches(), eps=threat.eps, norm=threat.norm,
            attacks=attacks.split(","), examples=examples, seed=seed, version=version, progress=progress,
        )  # fmt: skip
    parameters = count_parameters(classifier)
    about = f"{model}: {parameters:,} parameters, {threat.norm} eps {threat.eps:.4g}"
    console.print(f"{about}, {report.examples} test images of {chosen.name}", highlight=False, soft_wrap=True)
    table = Table()
    for heading in ("attack", "accuracy", "95 % interval", "seconds"):
        table.add_column(heading, justify="left" if heading == "attack" else "right")
    for name, result in report.results.items():
        low, high = result.interval
        table.add_row(name, f"{result.accuracy:.1%}", f"{low:.1%} - {high:.1%}", f"{result.seconds:.1f}")
    console.print(table)
    for name, result in report.results.items():
        for note in result.notes:
            console.print(f"{name}: {note}", style="yellow", highlight=False, soft_wrap=True)
    if json_file is not None:
        asked = {"model": model, "which": which, "data": chosen.name, "parameters": parameters, "version": version}
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(asked | report.to_dict(), indent=2) + "\n")


def _run_of(path: Path) -> dict[str, Any]:
    from kdiga.training.folder import read_config

    folder = path if path.is_dir() else path.parent
    return (read_config(folder) if path.exists() else None) or {}


def _data_of(recipe: dict[str, Any], data: str | None, root: Path | None) -> DataConfig:
    from kdiga.config import DataConfig
    from kdiga.data import available_data
    from kdiga.errors import InputError

    given = None if root is None else str(root)
    if data is not None:
        return DataConfig(data, given)
    if "data" not in recipe:
        raise InputError(f"no data set was given; name one with --data, for example {', '.join(available_data())}.")
    saved = DataConfig(**recipe["data"])
    return saved if given is None else replace(saved, root=given)
