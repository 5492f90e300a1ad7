"""Checks of arguments by their type hints, at public functions and in dataclasses of options."""

from __future__ import annotations

import collections.abc
import functools
import inspect
import types
from collections.abc import Callable, Mapping
from dataclasses import fields
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, NamedTuple, ParamSpec, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from torch import Tensor, nn

from kdiga.errors import InputError, unknown

P = ParamSpec("P")
R = TypeVar("R")

TOO_LARGE = 2**63
LONGEST = 60  # characters of a value in a message
WORDS: dict[Any, str] = {
    Integral: "a whole number",
    Real: "a number",
    bool: "True or False",
    str: "text",
    Path: "a path",
    Tensor: "a tensor",
    nn.Module: "a torch.nn.Module",
    type(None): "None",
    collections.abc.Sequence: "a sequence",
    collections.abc.Iterable: "an iterable of batches",
    collections.abc.Callable: "a function",
    collections.abc.Mapping: "a mapping",
}
EXAMPLES = {
    "Method": "a method such as kdiga.methods.KD()",
    "Route": "a route such as kdiga.Exact()",
    "Teacher": "another source of signals",
    "ThreatModel": "a kdiga.ThreatModel",
}
"""Words for classes of this package, by their names."""
RUNTIME: dict[Any, Any] = {int: Integral, float: Real, tuple: collections.abc.Sequence, None: type(None)}


class Accepted(NamedTuple):
    """What an argument may be: an instance of some classes, or one of some values."""

    classes: tuple[type, ...]
    values: tuple[Any, ...]

    def allows(self, value: object) -> bool:
        """Return whether a value is accepted; True is no number, and no integer has more than 64 bits."""
        if isinstance(value, bool) and object not in self.classes and bool not in self.classes:
            return value in self.values
        if isinstance(value, int) and abs(value) >= TOO_LARGE:
            return False
        return isinstance(value, self.classes) or any(type(value) is type(one) and value == one for one in self.values)


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Return the function with a check of its arguments by their type hints.

    A number accepts NumPy's numbers, and a tuple any sequence. Elements of containers are not checked.

    Raises:
        InputError: For an argument of another type; the function itself is then not called.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        accepted = _arguments(function)
        for name, value in (*zip(accepted, args, strict=False), *kwargs.items()):
            if name in accepted and not accepted[name].allows(value):
                raise _wrong(name, value, accepted[name])
            if isinstance(value, str | Path) and "\0" in str(value):
                raise InputError(f"{name} was {str(value)!r:.{LONGEST}}; a name or path has no null character.")
        return function(*args, **kwargs)

    return run


def check_fields(options: object) -> None:
    """Check the fields of a dataclass by their type hints.

    Raises:
        InputError: For a field of another type.
    """
    for name, accepted in _fields(type(options)).items():
        if not accepted.allows(value := getattr(options, name)):
            raise _wrong(name, value, accepted)


@functools.cache
def _arguments(function: Callable[..., Any]) -> Mapping[str, Accepted]:
    """Return what each named argument may be, in their order."""
    hints, parameters = get_type_hints(function), inspect.signature(function).parameters
    return {
        name: _accepted(hints.get(name, Any))
        for name, parameter in parameters.items()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }


@functools.cache
def _fields(kind: type) -> Mapping[str, Accepted]:
    hints = get_type_hints(kind)
    return {one.name: _accepted(hints[one.name]) for one in fields(kind)}


def _accepted(hint: Any) -> Accepted:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        parts = [_accepted(one) for one in get_args(hint)]
        return Accepted(
            tuple(one for part in parts for one in part.classes), tuple(one for part in parts for one in part.values)
        )
    if origin is Literal:
        return Accepted((), get_args(hint))
    kind: Any = RUNTIME.get(origin or hint, origin or hint)
    # A protocol that is not checkable at run time accepts everything here.
    plain = (
        kind is Any
        or not isinstance(kind, type)
        or (getattr(kind, "_is_protocol", False) and not getattr(kind, "_is_runtime_protocol", False))
    )
    return Accepted((object,) if plain else (cast("type", kind),), ())


def _wrong(name: str, value: object, accepted: Accepted) -> InputError:
    if isinstance(value, str) and accepted.values:
        return unknown(name, value[:LONGEST], map(str, accepted.values))
    if isinstance(value, int) and abs(value) >= TOO_LARGE:
        return InputError(f"{name} was {value!r:.{LONGEST}}; it must be a number of at most 64 bits.")
    is_plain = value is None or isinstance(value, (str, Path, Real, bytes))
    shown = f"{value!r:.{LONGEST}}" if is_plain else f"of type {type(value).__name__}"
    names = [WORDS.get(one) or EXAMPLES.get(one.__name__) or _with_article(one.__name__) for one in accepted.classes]
    names += [repr(one) for one in accepted.values]
    hint = ""
    if nn.Module in accepted.classes and callable(value):
        hint = " A function hides the modes and weights of its model: give the model, or wrap both in a Module."
    elif Tensor in accepted.classes and isinstance(value, cast("Any", (collections.abc.Sequence, Real))):
        hint = " Use torch.as_tensor."
    elif Tensor in accepted.classes and hasattr(value, "__array__"):
        hint = " Use torch.as_tensor for an array."
    *first, last = dict.fromkeys(names)
    allowed = f"{', '.join(first)} or {last}" if first else last
    return InputError(f"{name} was {shown}; it must be {allowed}.{hint}")


def _with_article(name: str) -> str:
    return f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"
