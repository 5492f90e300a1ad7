"""What a method is: what it needs, how its options are checked, and the registry that finds it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from typing import (
    Any,
    ClassVar,
    Literal,
    Protocol,
    TypeVar,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
    runtime_checkable,
)

from kdiga.errors import InputError, unknown
from kdiga.gradients.student_pass import GradientUse
from kdiga.losses import Score
from kdiga.methods.context import StepContext
from kdiga.plugins import import_all, load_plugins
from kdiga.types import Objective, Term


@dataclass(frozen=True)
class Passes:
    """Network passes of one training step."""

    forwards: int = 0  # number of forward passes, with or without a graph
    # Number of backward passes: one for every forward pass that a gradient goes back through, to the images or to the
    # parameters. Double backprop is more work inside one pass and counts once.
    backwards: int = 0


@dataclass(frozen=True)
class Needs:
    """What a method needs of a step with its present options, and what it costs."""

    student: Passes  # passes of the student in one step when every term is on
    teacher: Passes = Passes()  # passes of all teachers together in one step
    teachers: int = 1  # number of teachers, 0 to 2
    teacher_gradient: bool = False  # whether the first teacher's input gradient at clean images is needed
    # Whether a teacher is queried at images other than the clean ones; stored signals cannot serve such a method.
    teacher_queries: bool = False
    trains_teacher: bool = False  # whether the teacher is trained together with the student
    student_gradient: GradientUse = "none"  # use of the student's own input gradient
    gradient_of: Score = "loss"  # score of an example that input gradients are taken of
    train_forwards: int = 1  # number of times the running statistics of the student's batch norm move in one step
    # Whether a term depends on several examples in another way than by their mean. Processes exchange what it takes;
    # micro-batches, one after another, cannot.
    couples_batch: bool = False
    label_loss: bool = False  # whether a term is the cross-entropy with the labels, which label smoothing changes


@dataclass(frozen=True)
class MethodInfo:
    """Name of a method and source of its formula."""

    name: str
    paper: str


@runtime_checkable
class Method(Protocol):
    """A frozen dataclass, at once the method, its configuration and its schema."""

    info: ClassVar[MethodInfo]
    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def needs(self) -> Needs:
        """What it needs and costs with its present options."""
        ...

    def __call__(self, step: StepContext) -> Objective:
        """Map a step's shared results to weighted loss terms."""
        ...


@runtime_checkable
class AddedTerm(Protocol):
    """A method one of whose terms can be added to other methods; see :class:`kdiga.methods.combined.Combined`."""

    @property
    def added_needs(self) -> Needs:
        """What the term needs and costs, at most.

        Raises:
            InputError: If the term cannot be added with these options.
        """
        ...

    def added_term(self, step: StepContext) -> Term:
        """Return the term, after the other method's objective."""
        ...


class CheckedOptions:
    """Base class of methods with options. It checks options by type and name when a method is configured.

    Raises:
        InputError: for a name that the option's ``Literal`` does not list, a weight that is negative or not finite,
            a temperature of 0 or less, fewer than 1 step, a step size of 0 or less, or a share of the training or
            the batch out of range, or a value of another type.
    """

    def __post_init__(self) -> None:
        """Check every option."""
        kinds = _kinds(type(self))
        for option in fields(self):  # pyright: ignore[reportArgumentType]
            value, kind = getattr(self, option.name), kinds[option.name]
            if get_origin(kind) is Literal and value not in get_args(kind):
                raise unknown(option.name, str(value), get_args(kind))
            if not isinstance(value, _ACCEPTED.get(kind, object)):
                accepted = "True or False" if kind is bool else "a number"
                raise InputError(f"{option.name} was {value!r}; it must be {accepted}.")
            if value is not None:
                _check_number(option.name, value)


_ACCEPTED: dict[Any, Any] = {bool: bool, int: (int, float), float: (int, float)} | {
    kind | None: (int, float, type(None)) for kind in (int, float)
}


@cache  # a study makes hundreds of methods
def _kinds(method: type[CheckedOptions]) -> dict[str, Any]:
    return get_type_hints(method)


def _check_number(name: str, value: float) -> None:
    accepted = None
    if name.endswith("_weight"):
        accepted = None if value >= 0 and math.isfinite(value) else "a finite number of at least 0"
    elif name.endswith("temperature") or name in ("step_size", "entropy_order"):
        accepted = None if value > 0 and math.isfinite(value) else "a number above 0"
    elif name.endswith("rate") or name == "exponent":
        accepted = None if 0 <= value < math.inf else "a finite number of at least 0"
    elif name in ("steps", "align_every", "updates"):
        accepted = None if value >= 1 and value == int(value) else "a whole number of at least 1"
    elif name == "align_share":
        accepted = None if 0 < value <= 1 else "a share of the batch, in (0, 1]"
    elif name in ("ramp", "begin"):
        accepted = None if 0 <= value <= 1 else "a share of the training, in [0, 1]"
    if accepted is not None:
        raise InputError(f"{name} was {value!r}; it must be {accepted}.")


@dataclass(frozen=True)
class SearchRange:
    """Range of a coefficient that ``kdiga tune`` searches."""

    low: float
    high: float
    log: bool = True


def coefficient(default: float, low: float, high: float, *, log: bool = True) -> Any:
    """Return a dataclass field that ``kdiga tune`` may vary between ``low`` and ``high``."""
    return field(default=default, metadata={"search": SearchRange(low, high, log)})


M = TypeVar("M")
_METHODS: dict[str, type[Method]] = {}


@dataclass_transform(frozen_default=True)
def register(name: str, *, paper: str) -> Callable[[type[M]], type[M]]:
    """Make a class a frozen dataclass, and register it as the method ``name``."""

    def add(cls: type[M]) -> type[M]:
        if "__dataclass_fields__" not in vars(cls):
            cls = dataclass(frozen=True)(cls)
        if name in _METHODS:
            raise InputError(f"two methods are named {name!r}: {_METHODS[name].__module__} and {cls.__module__}.")
        cls.info = MethodInfo(name, paper)  # pyright: ignore[reportAttributeAccessIssue]
        _METHODS[name] = cls  # pyright: ignore[reportArgumentType]
        return cls

    return add


def available_methods() -> dict[str, type[Method]]:
    """Return every method by name: those of this package, and those that installed packages bring."""
    import_all("kdiga.methods")
    load_plugins("methods")
    return dict(sorted(_METHODS.items()))


def methods_for(name: object) -> Mapping[str, type[Method]]:
    """Return the methods among which a name is looked up; other packages are imported only for a foreign name."""
    import_all("kdiga.methods")
    return _METHODS if isinstance(name, str) and name in _METHODS else available_methods()
