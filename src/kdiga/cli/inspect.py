"""``kdiga inspect MODEL``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from kdiga.cli.app import app
from kdiga.cli.completion import data_names, model_names
from kdiga.cli.model_options import Device, Which
from kdiga.cli.output import Json, Output, Quiet
from kdiga.cli.printing import say


@app.command()
def inspect(
    model: Annotated[
        str,
        typer.Argument(
            help="An architecture, timm:NAME, torchvision:NAME, robustbench:DATASET/THREAT/NAME, "
            "hf-hub:ORG/NAME, file:PATH, run:DIR.",
            autocompletion=model_names,
        ),
    ],
    data: Annotated[
        str | None, typer.Option(help="Data set to try it on; default: the run's own.", autocompletion=data_names)
    ] = None,
    root: Annotated[Path | None, typer.Option(help="Folder that holds the data.")] = None,
    examples: Annotated[int, typer.Option(min=1, help="Test images to try it on.")] = 512,
    weights: Annotated[Path | None, typer.Option(help="State dict to put into a named architecture.")] = None,
    normalization: Annotated[
        str | None, typer.Option(help="none, imagenet, cifar10 or half, with --weights; or pretrained.")
    ] = None,
    architecture: Annotated[str | None, typer.Option(help="Of file:PATH, where the file does not know it.")] = None,
    matched: Annotated[str, typer.Option(help="name, or order for the same tensors under other names.")] = "name",
    classes: Annotated[
        str | None, typer.Option(help="imagenet, or indices of the network's outputs: 0,217,482.")
    ] = None,
    num_classes: Annotated[int | None, typer.Option(help="Outputs of the network. Default: the data's.")] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Of the network. Default: its weights', else the data's.")
    ] = None,
    which: Which = "best",
    device: Device = "auto",
    json_file: Json = None,
    quiet: Quiet = False,
) -> None:
    """Say what a model is, and whether it fits the data: preprocessing, size, order of classes.

    Example: kdiga inspect file:weights/resnet4b.pth --architecture resnet4b --normalization cifar10 --data cifar10
    """
    from kdiga.errors import unknown
    from kdiga.models.foreign import MATCHES
    from kdiga.recipes.schema import ModelConfig
    from kdiga.workflows.inspect import inspect_named

    output = Output(json_file, quiet=quiet)
    if matched not in MATCHES:
        raise unknown("matched", matched, MATCHES)
    config = ModelConfig.typed(
        model,
        weights=weights,
        normalization=normalization,
        which=which,
        architecture=architecture,
        matched=matched,
        num_classes=num_classes,
        image_size=image_size,
        classes=_classes(classes),
    )
    found = inspect_named(config, data=data, root=root, examples=examples, device=device)
    console = output.console
    say(console, model)
    for line in found.lines():
        say(console, f"  {line}", style="yellow" if " failed: " in line else None)
    if found.examples:
        say(console, f"  tried on {found.examples} test images")
    output.result(found.to_dict())


def _classes(given: str | None) -> Literal["imagenet"] | list[int] | None:
    from kdiga.errors import InputError

    if given is None or given == "imagenet":
        return given
    try:
        return [int(one) for one in given.split(",")]
    except ValueError:
        raise InputError(f"classes was {given!r}; give imagenet, or indices such as 0,217,482.") from None
