"""What a method is, and where methods are found."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar

from kdiga.errors import InputError, unknown
from kdiga.step import GradientUse, Step
from kdiga.types import Objective


@dataclass(frozen=True)
class MethodInfo:
    """What a method declares about itself.

    Args:
        name: as in recipes and on the command line.
        paper: where its formula comes from.
        teacher: whether it needs a teacher.
        teacher_gradient: whether it needs the teacher's input gradient.
        student_gradient: what it uses the student's own input gradient for.
        train_forwards: forward passes of the student in train mode a step, that is, how often batch
            norm's running statistics move.
    """

    name: str
    paper: str
    teacher: bool = True
    teacher_gradient: bool = False
    student_gradient: GradientUse = "none"
    train_forwards: int = 1


class Method(Protocol):
    """A frozen dataclass, at once the method, its configuration and its schema."""

    info: ClassVar[MethodInfo]
    __dataclass_fields__: ClassVar[dict[str, Any]]

    def __call__(self, step: Step) -> Objective:
        """Map a step's shared results to weighted loss terms."""
        ...


M = TypeVar("M")
_METHODS: dict[str, type[Method]] = {}


def register(name: str, **declared: Any) -> Callable[[type[M]], type[M]]:
    """Make a frozen dataclass known under ``name``; the rest is its :class:`MethodInfo`."""

    def keep(cls: type[M]) -> type[M]:
        if name in _METHODS:
            raise InputError(f"two methods are named {name!r}: {_METHODS[name].__module__} and {cls.__module__}.")
        cls.info = MethodInfo(name, **declared)  # pyright: ignore[reportAttributeAccessIssue]
        _METHODS[name] = cls  # pyright: ignore[reportArgumentType]
        return cls

    return keep


def available_methods() -> dict[str, type[Method]]:
    """Return every method by name, importing this package's modules on first use."""
    package = importlib.import_module("kdiga.methods")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    return dict(sorted(_METHODS.items()))


def method_by_name(method: str | Method) -> Method:
    """Return the method of that name with its defaults, or the method itself.

    Raises:
        InputError: if there is none of that name.
    """
    if not isinstance(method, str):
        return method
    methods = available_methods()
    if method not in methods:
        raise unknown("method", method, methods)
    return methods[method]()
