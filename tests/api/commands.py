"""The command line as data: every command, and for every option its names, type and default.

python -m tests.api.commands > tests/api/commands.json
"""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from typer.main import get_command

from kdiga.cli.app import COMMANDS, app

FILE = Path(__file__).with_name("commands.json")


def commands() -> dict[str, Any]:
    """Return the parameters of ``kdiga`` itself under "kdiga", and of every command under its name."""
    for name in COMMANDS:
        importlib.import_module(f"kdiga.cli.{name}")
    group = get_command(app)
    found = {"kdiga": _about(group)}
    # By name: the order of the help is that in which the modules were imported.
    for name, command in sorted(group.commands.items()):
        found[f"kdiga {name}"] = _about(command)
    return found


def as_text(found: dict[str, Any]) -> str:
    """Return the data as JSON with one parameter a line, so that a difference names it."""
    blocks = list[str]()
    for name, about in found.items():
        rows = ",\n".join(f"    {json.dumps(one)}" for one in about["parameters"])
        hidden = json.dumps(about["hidden"])
        blocks.append(f'  {json.dumps(name)}: {{"hidden": {hidden}, "parameters": [\n{rows}\n  ]}}')
    return "{\n" + ",\n".join(blocks) + "\n}\n"


def _about(command: Any) -> dict[str, Any]:
    function = command.callback
    # Typer wraps the function of a command; the function itself has the annotations.
    hints = {} if function is None else get_type_hints(inspect.unwrap(function), include_extras=True)
    parameters = [_parameter(one, hints.get(one.name)) for one in command.params]
    # The order of arguments matters; that of options is a matter of the help.
    parameters.sort(key=lambda one: "" if one["kind"] == "argument" else one["names"][0])
    return {"hidden": command.hidden, "parameters": parameters}


def _parameter(one: Any, hint: Any) -> dict[str, Any]:
    """Return a parameter as plain data, without its help; what most parameters have in common is left out.

    Args:
        one: of Typer.
        hint: the annotation of the parameter in the function of the command; None where there is no such function.
    """
    kind, information = get_args(hint)[:2] if get_origin(hint) is Annotated else (hint, None)
    told: dict[str, Any] = {
        "names": [*one.opts, *one.secondary_opts],
        "kind": one.param_type_name,
        "type": _type(kind),
        "default": one.default
        if isinstance(one.default, (bool, int, float, str, list, NoneType))
        else str(one.default),
        "metavar": one.metavar,
        "required": one.required,
        "hidden": one.hidden,
        "min": getattr(information, "min", None),
        "max": getattr(information, "max", None),
        "completed": bool(getattr(information, "autocompletion", None)),
    }
    usual = {"metavar": None, "required": False, "hidden": False, "min": None, "max": None, "completed": False}
    return {name: value for name, value in told.items() if name not in usual or value != usual[name]}


def _type(kind: Any) -> str:
    """Return an annotation in words: "Path or none", "list of str", "one of best, last"."""
    parts = get_args(kind)
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(_type(part) for part in parts)
    if get_origin(kind) is list:
        return f"list of {_type(parts[0])}"
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, parts))}"
    return "none" if kind in (None, NoneType) else kind.__name__


if __name__ == "__main__":
    sys.stdout.write(as_text(commands()))
