"""Commands made from requests: the fields of a dataclass become options, and their values the dataclass again."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, fields
from functools import cache
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer

from kdiga.cli.app import app
from kdiga.cli.output import Output
from kdiga.workflows.options import Names, Option

JSON = Option("Also write the result as JSON to FILE; - writes only JSON to stdout.", ("--json",), metavar="FILE")
LONGEST_SUMMARY = 66  # characters that fit next to the name of a command in 80 columns
QUIET = Option("Print only the path of the result.", ("--quiet", "-q"))


def command(*, quiet: bool = True) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function of a request and an :class:`Output`, or of an ``Output`` alone, as the command of its name.

    The class of the request is the annotation of ``request``. The docstring is the help; its first line is also the
    summary in ``kdiga --help``. With ``quiet``, the command has ``--quiet``.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        kind: type[Any] | None = _annotations(function).get("request")
        options = [] if kind is None else list(_options(kind))
        declared = {name: (hint, option) for name, hint, option, _ in options}

        def run(*, json_file: Path | None = None, quiet: bool = False, **given: Any) -> None:
            output = Output(json_file, quiet=quiet)
            if kind is None:
                function(output)
            else:
                function(kind(**{name: _read(*declared[name], value) for name, value in given.items()}), output)

        parameters = [_parameter(*one) for one in options]
        parameters.append(_parameter("json_file", Path | None, JSON, None))
        parameters += [_parameter("quiet", bool, QUIET, False)] * quiet
        run.__dict__["__signature__"] = inspect.Signature(parameters)
        run.__annotations__, run.__doc__ = {one.name: one.annotation for one in parameters}, function.__doc__
        summary = (inspect.getdoc(function) or "").partition("\n")[0]
        app.command(function.__name__, short_help=summary)(run)
        return function

    return register


def _options(kind: type[Any]) -> Iterator[tuple[str, Any, Option, Any]]:
    """Yield name, type, option and default of each field, those of the class itself before inherited ones."""
    declared, defaults = dict[str, Any](), {one.name: one.default for one in fields(kind)}
    for one in kind.__mro__:
        declared |= {name: hint for name, hint in _annotations(one).items() if name not in declared}
    for name, annotation in declared.items():
        hint, option = get_args(annotation)
        yield name, hint, option, inspect.Parameter.empty if defaults[name] is MISSING else defaults[name]


@cache
def _annotations(of: Any) -> dict[str, Any]:
    """Return the evaluated annotations of a function or a class, without those that a class inherits."""
    return inspect.get_annotations(of, eval_str=True)


def _parameter(name: str, hint: Any, option: Option, default: Any) -> inspect.Parameter:
    """Return an option as Typer reads it from a signature."""
    several, names = get_origin(hint) is Sequence, option.names
    complete = None if names is None else completion(names, commas=several and option.read is not None)
    if option.read is not None:
        hint = str if default is inspect.Parameter.empty or default is not None else str | None
        default = ",".join(map(str, default)) if isinstance(default, tuple) else default
    elif several:
        hint = list[get_args(hint)[0]]
        if default == ():
            hint, default = hint | None, None
    flags = option.flags or ((f"--{name.replace('_', '-')}",) if hint is bool else ())
    form: dict[str, Any] = {
        "help": option.help,
        "metavar": option.metavar,
        "min": option.least,
        "hidden": option.hidden,
    }
    declared: Any = typer.Argument if option.argument else typer.Option
    annotation = Annotated[hint, declared(*flags, autocompletion=complete, **form)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _read(hint: Any, option: Option, value: Any) -> Any:
    """Return the value of a field from what Typer found on the command line."""
    if option.read is not None:
        return None if value is None else option.read(value)
    return tuple(value or ()) if get_origin(hint) is Sequence else value


def completion(names: Names, *, commas: bool) -> Callable[[str], list[str]]:
    """Return the function that offers names on TAB, behind the last comma where several are given."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",") if commas else ("", "", incomplete)
        offered = names() if callable(names) else names
        return [f"{before}{comma}{one}" for one in offered if one.startswith(last) and one not in before.split(",")]

    return complete
