"""The public surface as text: what somebody's code or recipe may rely on.

python -m tests.api.surface > tests/api/surface.txt
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from typer.main import get_command

import kdiga
from kdiga.cli.app import COMMANDS, app
from kdiga.recipes.validate import SECTIONS

FILE = Path(__file__).with_name("surface.txt")


def lines() -> Iterator[str]:
    """Yield every public name with its signature and defaults, what recipes may say, and the commands."""
    for name in kdiga.__all__:
        yield from _named(f"kdiga.{name}", getattr(kdiga, name))
    for name, method in kdiga.available_methods().items():
        yield f"method {name}({_options(method)})"
    for name, section in sorted(SECTIONS.items()):
        yield f"section {name}({_options(section)})"
    yield from _commands()


def _commands() -> Iterator[str]:
    for name in COMMANDS:
        importlib.import_module(f"kdiga.cli.{name}")
    for name, command in sorted(get_command(app).commands.items()):
        told = [f"{'/'.join((*one.opts, *one.secondary_opts))} = {one.default!r}" for one in command.params]
        yield f"command kdiga {name}({', '.join(sorted(told))})"


def _named(path: str, thing: Any) -> Iterator[str]:
    if not inspect.isclass(thing):
        yield f"{path}{_signature(thing)}"
        return
    if issubclass(thing, (Exception, Warning)):
        yield f"{path}({', '.join(base.__name__ for base in thing.__bases__)})"
        return
    yield f"{path}{_signature(thing)}"
    for name, member in sorted(vars(thing).items()):
        if name.startswith("_"):
            continue
        if isinstance(member, property):
            yield f"{path}.{name} -> {_word(inspect.signature(member.fget).return_annotation)}"
        elif isinstance(member, (classmethod, staticmethod)) or inspect.isfunction(member):
            yield f"{path}.{name}{_signature(getattr(thing, name))}"


def _signature(thing: Callable[..., Any]) -> str:
    # By hand: Python versions differ in how they print an annotation that is a string.
    signature, parts, starred = inspect.signature(thing), list[str](), False
    for one in signature.parameters.values():
        if one.kind is one.KEYWORD_ONLY and not starred:
            parts.append("*")
            starred = True
        starred = starred or one.kind is one.VAR_POSITIONAL
        stars = {one.VAR_POSITIONAL: "*", one.VAR_KEYWORD: "**"}.get(one.kind, "")
        default = "" if one.default is one.empty else f" = {_default(one.default)}"
        annotation = "" if one.annotation is one.empty else f": {_word(one.annotation)}"
        parts.append(f"{stars}{one.name}{annotation}{default}")
    returned = signature.return_annotation
    arrow = "" if returned in (signature.empty, None, "None") or inspect.isclass(thing) else f" -> {_word(returned)}"
    return f"({', '.join(parts)}){arrow}"


def _options(kind: Any) -> str:
    told = []
    for field in fields(kind):
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        told.append(f"{field.name}: {_word(field.type)}{'' if default is MISSING else f' = {_default(default)}'}")
    return ", ".join(told)


def _word(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))


def _default(value: Any) -> str:
    return repr(value)


if __name__ == "__main__":
    sys.stdout.write("\n".join(lines()) + "\n")
