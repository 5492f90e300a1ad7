"""``kdiga methods``, ``kdiga models``, ``kdiga data``, ``kdiga recipes``."""

from __future__ import annotations

import inspect
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kdiga.cli.app import app
from kdiga.cli.completion import method_names
from kdiga.cli.output import Json, Output
from kdiga.cli.printing import print_table, say

if TYPE_CHECKING:
    from kdiga.methods import Method, Needs, Passes


@app.command()
def methods(
    name: Annotated[
        str | None,
        typer.Argument(help="Tell all about one method: formula, options, defaults.", autocompletion=method_names),
    ] = None,
    json_file: Json = None,
) -> None:
    """List the training methods: paper, network passes a step, what each asks of its teacher.

    Example: kdiga methods kdiga
    """
    from kdiga.methods import available_methods, method_by_name

    output = Output(json_file)
    console = output.console
    if name is not None:
        _tell(console, method_by_name(name))
        output.result(_about(method_by_name(name)))
        return
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("method", "student", "teacher", "asks", "grad", "paper"):
        table.add_column(heading, no_wrap=True)
    for method in available_methods().values():
        needs = method().needs
        table.add_row(
            method.info.name,
            _passes(needs.student),
            _teacher(needs),
            "yes" if needs.teacher_queries else "no" if needs.teachers else "-",
            _gradients(needs),
            method.info.paper,
        )
    print_table(console, table)
    output.result({"kind": "methods", "methods": [_about(method()) for method in available_methods().values()]})
    console.print(
        "\nstudent, teacher: forward + backward passes a step with the default options. asks: whether the teacher is\n"
        "queried at perturbed images, so that stored signals cannot serve. grad: whose input gradient is used,\n"
        "[s] read, [S] trained through, [t] the teacher's. kdiga methods NAME tells more.",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _about(method: Method) -> dict[str, Any]:
    """Return a method as plain data."""
    options = {one.name: getattr(method, one.name) for one in fields(method)}  # pyright: ignore[reportArgumentType]
    about = {"name": method.info.name, "paper": method.info.paper, "options": options, "needs": asdict(method.needs)}
    return about | {"description": inspect.getdoc(type(method)) or ""}


def _passes(passes: Passes) -> str:
    return f"{passes.forwards}+{passes.backwards}"


def _teacher(needs: Needs) -> str:
    if not needs.teachers:
        return "-"
    return f"{_passes(needs.teacher)}{' of 2' * (needs.teachers == 2)}{' trained' * needs.trains_teacher}"


def _gradients(needs: Needs) -> str:
    student = {"none": "", "value": "s", "differentiable": "S"}[needs.student_gradient]
    return student + ("t" if needs.teacher_gradient else "") or "-"


def _tell(console: Console, method: Method) -> None:
    needs = method.needs
    lines = [f"{method.info.name}  ({method.info.paper})", "", inspect.getdoc(type(method)) or "", ""]
    options = ", ".join(f"{one.name}={getattr(method, one.name)!r}" for one in fields(method))  # pyright: ignore
    lines.append(f"Defaults: {options or 'no options'}.")
    lines.append(
        f"Passes a step (forwards+backwards): student {_passes(needs.student)}, teacher {_passes(needs.teacher)}."
    )
    console.print("\n".join(lines).replace("``", ""), highlight=False, markup=False, soft_wrap=True)


@app.command()
def models(
    num_classes: Annotated[int, typer.Option(help="Length of the logits.")] = 10,
    image_size: Annotated[int, typer.Option(help="Height and width in pixels.")] = 32,
    in_channels: Annotated[int, typer.Option(help="1 for grey, 3 for colour.")] = 3,
    json_file: Json = None,
) -> None:
    """List the built-in architectures with their parameters. Others are given by their source.

    Example: kdiga models --image-size 8 --in-channels 1
    """
    import torch

    from kdiga.errors import InputError
    from kdiga.models import ModelSpec, available_models, build, count_parameters
    from kdiga.models.registry import available_sources

    output, counted = Output(json_file), dict[str, int | None]()
    table = Table(title=f"Models for {in_channels}x{image_size}x{image_size} images of {num_classes} classes")
    table.add_column("name")
    table.add_column("parameters", justify="right")
    for name in available_models():
        # Shapes alone: building WRN-34-20 for real takes a second and 700 MB.
        try:
            with torch.device("meta"):
                counted[name] = count_parameters(build(ModelSpec(name, num_classes, in_channels, image_size)))
        except InputError:  # not every architecture takes every size; what none takes is a mistake
            if num_classes < 1 or in_channels < 1 or image_size < 1:
                raise
            counted[name] = None
        table.add_row(name, "not for this size" if counted[name] is None else f"{counted[name]:,}")
    forms = [source.form for prefix, source in available_sources().items() if prefix]
    for form in forms:
        table.add_row(form, "")
    print_table(output.console, table)
    output.result({"kind": "models", "parameters": counted, "sources": forms})


@app.command()
def data(json_file: Json = None) -> None:
    """List the data sets that are known by name. A folder of class folders is accepted by its path.

    Example: kdiga data --json -
    """
    from kdiga.data import available_data
    from kdiga.data.registry import FORMS

    output = Output(json_file)
    for line in (*available_data(), *FORMS):
        say(output.console, line)
    output.result({"kind": "data", "names": list(available_data()), "forms": list(FORMS)})


@app.command()
def recipes(json_file: Json = None) -> None:
    """List the recipes that come with kdiga. Commands take their names in place of a path.

    Example: kdiga recipes
    """
    from kdiga.recipes.shipped import about, shipped

    output = Output(json_file)
    table = Table("name", "", box=None, pad_edge=False, show_header=False)
    for name, path in shipped().items():
        table.add_row(name, Text(about(path)))
    print_table(output.console, table)
    output.result({"kind": "recipes", "recipes": {name: about(path) for name, path in shipped().items()}})
