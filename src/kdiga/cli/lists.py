"""``kdiga methods``, ``kdiga models``, ``kdiga data``, ``kdiga recipes``."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any

from kdiga.cli.command import command
from kdiga.cli.output import Output
from kdiga.cli.printing import say, show_table
from kdiga.workflows.options import METHODS, Option

if TYPE_CHECKING:
    from kdiga.methods import Method, Needs, Passes

ZOO_HEADINGS = ("name", "architecture", "data and threat", "parameters", "clean", "AutoAttack")
METHOD_HEADINGS = ("method", "student", "teacher", "asks", "grad", "paper")


@dataclass(frozen=True, kw_only=True)
class MethodsRequest:
    """All methods, or one."""

    name: Annotated[str | None, Option("One method: formula, options, defaults.", names=METHODS, argument=True)] = None


@command(quiet=False)
def methods(request: MethodsRequest, output: Output) -> None:
    """List the training methods, or show one in full.

    The list has the paper, the network passes of a step, and what each method needs from its teacher.

    Example: kdiga methods kdiga
    """
    from kdiga.methods import available_methods, method_by_name

    console = output.console
    if request.name is not None:
        method = method_by_name(request.name)
        say(console, _in_full(method))
        output.result(_content(method))
        return
    known = [method() for method in available_methods().values()]
    show_table(console, METHOD_HEADINGS, map(_row, known), words=METHOD_HEADINGS, frame=False)
    say(
        console,
        "\nstudent, teacher: forward + backward passes a step with the default options. asks: whether the teacher is\n"
        "queried at perturbed images, so that stored signals cannot serve. grad: whose input gradient is used,\n"
        "[s] read, [S] trained through, [t] the teacher's. kdiga methods NAME shows one in full.",
    )
    output.result({"kind": "methods", "methods": [_content(method) for method in known]})


def _row(method: Method) -> tuple[str, ...]:
    needs = method.needs
    asks = "yes" if needs.teacher_queries else "no" if needs.teachers else "-"
    return method.info.name, _passes(needs.student), _teacher(needs), asks, _gradients(needs), method.info.paper


def _content(method: Method) -> dict[str, Any]:
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


def _in_full(method: Method) -> str:
    needs = method.needs
    lines = [f"{method.info.name}  ({method.info.paper})", "", inspect.getdoc(type(method)) or "", ""]
    options = ", ".join(f"{one.name}={getattr(method, one.name)!r}" for one in fields(method))  # pyright: ignore
    lines.append(f"Defaults: {options or 'no options'}.")
    lines.append(
        f"Passes a step (forwards+backwards): student {_passes(needs.student)}, teacher {_passes(needs.teacher)}."
    )
    return "\n".join(lines).replace("``", "")


@dataclass(frozen=True, kw_only=True)
class ModelsRequest:
    """The images and classes for which parameters are counted."""

    num_classes: Annotated[int, Option("Length of the logits.")] = 10
    image_size: Annotated[int, Option("Height and width, pixels.")] = 32
    in_channels: Annotated[int, Option("1 for grey, 3 for colour.")] = 3


@command(quiet=False)
def models(request: ModelsRequest, output: Output) -> None:
    """List the built-in architectures with their parameters.

    Others are given by their source.

    Example: kdiga models --image-size 8 --in-channels 1
    """
    import torch

    from kdiga.errors import InputError
    from kdiga.models import ModelSpec, available_models, build, count_parameters
    from kdiga.models.registry import available_sources
    from kdiga.models.sources.zoo import zoo_index

    classes, size, channels = request.num_classes, request.image_size, request.in_channels
    counted = dict[str, int | None]()
    for name in available_models():
        # Shapes alone: building WRN-34-20 for real takes a second and 700 MB.
        try:
            with torch.device("meta"):
                counted[name] = count_parameters(build(ModelSpec(name, classes, channels, size)))
        except InputError:  # not every architecture takes every size; what none takes is a mistake
            if min(classes, channels, size) < 1:
                raise
            counted[name] = None
    forms = [source.form for prefix, source in available_sources().items() if prefix]
    say(output.console, f"Models for {channels}x{size}x{size} images of {classes} classes")
    rows = [(name, "not for this size" if count is None else f"{count:,}") for name, count in counted.items()]
    show_table(output.console, ("name", "parameters"), [*rows, *((form, "") for form in forms)])
    say(output.console, "Trained models that come with kdiga")
    trained = [(f"zoo:{name}", *_trained(about)) for name, about in zoo_index().items()]
    show_table(output.console, ZOO_HEADINGS, trained, words=ZOO_HEADINGS[:3])
    output.result({"kind": "models", "parameters": counted, "sources": forms, "zoo": dict(zoo_index())})


def _trained(about: Mapping[str, Any]) -> tuple[str, ...]:
    threat, accuracy = about["threat"], about["accuracy"]
    shares = (f"{accuracy[attack]:.1%}" for attack in ("clean", "autoattack"))
    return (
        about["architecture"],
        f"{about['data']}, {threat['norm']} {threat['eps']:g}",
        f"{about['parameters']:,}",
        *shares,
    )


@command(quiet=False)
def data(output: Output) -> None:
    """List the data sets that have a name.

    A folder of class folders is accepted by its path.

    Example: kdiga data --json -
    """
    from kdiga.data import available_data
    from kdiga.data.registry import FORMS

    for line in (*available_data(), *FORMS):
        say(output.console, line)
    output.result({"kind": "data", "names": list(available_data()), "forms": list(FORMS)})


@command(quiet=False)
def recipes(output: Output) -> None:
    """List the recipes that come with kdiga.

    Commands accept their names in place of a path.

    Example: kdiga recipes
    """
    from kdiga.recipes.shipped import about, shipped

    known = {name: about(path) for name, path in shipped().items()}
    show_table(output.console, ("", ""), known.items(), words=("",), frame=False)
    output.result({"kind": "recipes", "recipes": known})
