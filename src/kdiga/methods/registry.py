"""What a method is, and where methods are found."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Protocol, TypeVar

from kdiga.errors import InputError, unknown
from kdiga.methods.context import StepContext
from kdiga.methods.needs import Needs
from kdiga.types import Objective


@dataclass(frozen=True)
class MethodInfo:
    """How a method is called and where its formula comes from."""

    name: str
    paper: str


class Method(Protocol):
    """A frozen dataclass, at once the method, its configuration and its schema."""

    info: ClassVar[MethodInfo]
    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def needs(self) -> Needs:
        """What it needs and costs with its options as they are."""
        ...

    def __call__(self, step: StepContext) -> Objective:
        """Map a step's shared results to weighted loss terms."""
        ...


@dataclass(frozen=True)
class SearchRange:
    """The range in which a coefficient is worth looking for."""

    low: float
    high: float
    log: bool = True


def coefficient(default: float, low: float, high: float, *, log: bool = True) -> Any:
    """Return a dataclass field that ``kdiga tune`` may vary between ``low`` and ``high``."""
    return field(default=default, metadata={"search": SearchRange(low, high, log)})


def search_space(method: Method) -> dict[str, SearchRange]:
    """Return the coefficients of a method that are worth tuning, by name; one that is 0 is off and stays so."""
    found = {one.name: one.metadata.get("search") for one in fields(method)}  # pyright: ignore[reportArgumentType]
    return {name: search for name, search in found.items() if search is not None and getattr(method, name)}


M = TypeVar("M")
_METHODS: dict[str, type[Method]] = {}


def register(name: str, *, paper: str) -> Callable[[type[M]], type[M]]:
    """Make a frozen dataclass known under ``name``."""

    def keep(cls: type[M]) -> type[M]:
        if name in _METHODS:
            raise InputError(f"two methods are named {name!r}: {_METHODS[name].__module__} and {cls.__module__}.")
        cls.info = MethodInfo(name, paper)  # pyright: ignore[reportAttributeAccessIssue]
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
