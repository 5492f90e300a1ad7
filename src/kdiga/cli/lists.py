"""``kdiga methods``, ``kdiga models``, ``kdiga data``, ``kdiga recipes``."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from kdiga.cli.command import command
from kdiga.cli.output import Output
from kdiga.cli.printing import say, show_table
from kdiga.statistics import percent
from kdiga.workflows.options import METHODS, RECIPES, Option

if TYPE_CHECKING:
    from kdiga.methods import Method, Needs, Passes

ZOO_HEADINGS = ("name", "architecture", "data and threat", "parameters", "clean", "AutoAttack")
METHOD_HEADINGS = (
    "method",
    "student passes",
    "teacher passes",
    "needs queries of the teacher",
    "input gradients used",
    "paper",
)


@dataclass(frozen=True, kw_only=True)
class MethodsRequest:
    """All methods, or one."""

    name: Annotated[str | None, Option("One method: formula, options, defaults.", names=METHODS, argument=True)] = None


@command(quiet=False)
def methods(request: MethodsRequest, output: Output) -> None:
    """List the training methods, or show one in full.

    The list has the paper, the network passes per step, and what each method needs from its teacher.

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
        "\nPasses: forward + backward passes per step, with the default options. A method that needs queries of the\n"
        "teacher runs it on perturbed images, so it cannot use a teacher cache. `kdiga methods NAME` shows one method.",
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
    return f"{passes.forwards} + {passes.backwards}"


def _teacher(needs: Needs) -> str:
    if not needs.teachers:
        return "-"
    two, trained = " (two teachers)" * (needs.teachers == 2), " (trained too)" * needs.trains_teacher
    return f"{_passes(needs.teacher)}{two}{trained}"


def _gradients(needs: Needs) -> str:
    student = {"none": "", "value": "student", "differentiable": "student (differentiated)"}[needs.student_gradient]
    return ", ".join(filter(None, (student, "teacher" * needs.teacher_gradient))) or "-"


def _in_full(method: Method) -> str:
    needs = method.needs
    lines = [f"{method.info.name}  ({method.info.paper})", "", inspect.getdoc(type(method)) or "", ""]
    options = ", ".join(f"{one.name}={getattr(method, one.name)!r}" for one in fields(method))  # pyright: ignore
    lines.append(f"Defaults: {options or 'no options'}.")
    lines.append(
        f"Passes per step (forward + backward): student {_passes(needs.student)}, teacher {_passes(needs.teacher)}."
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

    Other models are given by their source.

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
    shares = (percent(accuracy[attack]) for attack in ("clean", "autoattack"))
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


@dataclass(frozen=True, kw_only=True)
class RecipesRequest:
    """All recipes, or one."""

    name: Annotated[str | None, Option("One recipe, which is printed.", names=RECIPES, argument=True)] = None
    file: Annotated[Path | None, Option("File of the copy. Default: NAME.yaml.", argument=True)] = None
    copy: Annotated[bool, Option("Copy the recipe to a file, which you can edit.", flags=("--copy",))] = False


@command(quiet=False)
def recipes(request: RecipesRequest, output: Output) -> None:
    """List the recipes that come with kdiga; print or copy one.

    Commands accept their names in place of a path.

    Example: kdiga recipes digits-kdiga
    """
    from kdiga.recipes.shipped import about, find_recipe, shipped

    if request.name is None:
        known = {name: about(path) for name, path in shipped().items()}
        show_table(output.console, ("", ""), known.items(), words=("",), frame=False)
        output.result({"kind": "recipes", "recipes": known})
        return
    text = find_recipe(request.name).read_text(encoding="utf-8")
    copied = _copy(text, request.file or Path(f"{Path(request.name).stem}.yaml")) if request.copy else None
    say(
        output.console, text.rstrip() if copied is None else f"Copied to {copied}. Next: kdiga train {copied} --dry-run"
    )
    output.result({"kind": "recipe", "name": request.name, "text": text}, copied)


def _copy(text: str, file: Path) -> Path:
    """Write a recipe to a file that does not exist yet."""
    from kdiga.errors import InputError
    from kdiga.io.atomic_write import write_atomically

    if file.exists():
        raise InputError(f"{str(file)!r} exists; give another file: kdiga recipes NAME --copy FILE.")
    write_atomically(file, text, shared=True)
    return file
