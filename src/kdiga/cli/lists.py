"""``kdiga methods``, ``kdiga models``, ``kdiga data``."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from kdiga.cli.app import app


@app.command()
def methods() -> None:
    """List the training methods, what each needs and its coefficients."""
    from kdiga.methods import available_methods

    console = Console()
    for name, method in available_methods().items():
        info = method.info
        needs = "logits and input gradient" if info.teacher_gradient else "logits" if info.teacher else "none"
        uses = {"none": "not used", "value": "read", "differentiable": "trained through"}[info.student_gradient]
        options = ", ".join(f"{field.name}={field.default}" for field in fields(method))  # pyright: ignore
        summary = " ".join((method.__doc__ or "").split("\n\n")[0].split()).replace("``", "")
        console.print(f"[bold]{name}[/]  {info.paper}", highlight=False, soft_wrap=True)
        console.print(f"  {summary}", highlight=False, markup=False, soft_wrap=True)
        console.print(
            f"  teacher: {needs}; student's input gradient: {uses}", highlight=False, markup=False, soft_wrap=True
        )
        if options:
            console.print(f"  options: {options}", highlight=False, markup=False, soft_wrap=True)


@app.command()
def models(
    num_classes: Annotated[int, typer.Option(help="Length of the logits.")] = 10,
    image_size: Annotated[int, typer.Option(help="Height and width in pixels.")] = 32,
    in_channels: Annotated[int, typer.Option(help="1 for grey, 3 for colour.")] = 3,
) -> None:
    """List the built-in architectures with their parameters. Every architecture of timm is timm:NAME."""
    import torch

    from kdiga.models import ModelSpec, available_models, build, count_parameters

    table = Table(title=f"Models for {in_channels}x{image_size}x{image_size} images of {num_classes} classes")
    table.add_column("name")
    table.add_column("parameters", justify="right")
    for name in available_models():
        # Shapes alone: building WRN-34-20 for real takes a second and 700 MB.
        with torch.device("meta"):
            model = build(ModelSpec(name, num_classes, in_channels, image_size))
        table.add_row(name, f"{count_parameters(model):,}")
    table.add_row("timm:NAME", "any of timm's")
    Console().print(table)


@app.command()
def data() -> None:
    """List the data sets that are known by name. A folder of class folders is accepted by its path."""
    from kdiga.data import available_data

    for name in available_data():
        Console().print(name, highlight=False)
    Console().print("PATH of a folder of class folders (or of train/ and test/ with class folders)", highlight=False)
