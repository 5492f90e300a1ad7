"""Methods by name, and a method with terms of others added to its objective."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, cast

from kdiga.errors import InputError, unknown
from kdiga.methods.base import (
    AddedTerm,
    Method,
    MethodInfo,
    Needs,
    Passes,
    SearchRange,
    available_methods,
    methods_for,
)
from kdiga.methods.context import StepContext
from kdiga.types import Objective, recorded_options

GRADIENT_USES = ("none", "value", "differentiable")  # in rising order


@dataclass(frozen=True)
class Combined:
    """A method with a term of other methods added: the alignment of ``kdiga``, the gap of ``tangent``, or ``igdm``'s.

    ``{"name": "rslad", "with": {"kdiga": {"gradient_weight": 1}}}`` minimises RSLAD's objective plus KDIGA's alignment
    term. IGDM's term is taken at the images of the method's own attack, as its paper does. Passes of ``needs`` are the
    largest possible: a pass that both use runs once.

    Args:
        base: Method whose objective counts in full.
        added: Methods of which one term is added.

    Raises:
        InputError: If a method has no such term, options exclude it, or the methods need input gradients of different
            scores, or IGDM's term is added to a method that does not attack every image at every step.
    """

    base: Method
    added: tuple[Method, ...]

    def __post_init__(self) -> None:
        _ = self.needs

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("base", "added"):  # while it is copied or unpickled
            raise AttributeError(name)
        return getattr(self.base, name)

    @property
    def info(self) -> MethodInfo:
        """Names and sources of all its methods."""
        infos = [one.info for one in (self.base, *self.added)]
        return MethodInfo("+".join(one.name for one in infos), "; ".join(one.paper for one in infos))

    @property
    def needs(self) -> Needs:
        """The base's needs and those of the added terms."""
        total = self.base.needs
        parted = getattr(self.base, "align_share", 1.0) < 1 or getattr(self.base, "align_every", 1) > 1
        attacks = total.student.forwards > total.train_forwards and not parted
        for one in self.added:
            if not isinstance(one, AddedTerm):
                names = [name for name, kind in available_methods().items() if hasattr(kind, "added_term")]
                raise unknown("method to add", one.info.name, names)
            if one.info.name == "igdm" and not attacks:
                raise InputError(
                    f"method {self.base.info.name!r} attacks nothing, or with align_share or align_every not every "
                    "image and step, and igdm's term is taken at the images of its attack; add it to a method that "
                    "attacks them all, such as rslad."
                )
            total = _joined(total, one.added_needs, f"{self.base.info.name!r} with {one.info.name!r}")
        return total

    def __call__(self, step: StepContext) -> Objective:
        """Return the base's terms and the added ones."""
        if any(one.needs.teacher_gradient and _aligns_all(one, step.clock.number) for one in self.added):
            step.ask_teacher_first(step)
        terms = list(self.base(step).terms)
        for one in self.added:
            term = cast("AddedTerm", one).added_term(step)
            terms.append(replace(term, name=f"{one.info.name}-{term.name}"))
        return Objective(tuple(terms))


def _aligns_all(method: Method, number: int) -> bool:
    """Return whether a method aligns the whole batch at step ``number``."""
    return getattr(method, "align_share", 1.0) == 1 and number % getattr(method, "align_every", 1) == 0


def _joined(one: Needs, other: Needs, names: str) -> Needs:
    used = [part for part in (one, other) if part.teacher_gradient or part.student_gradient != "none"]
    if len({part.gradient_of for part in used}) > 1:
        raise InputError(
            f"{names}: one takes input gradients of the {used[0].gradient_of} and the other of the "
            f"{used[1].gradient_of}; use methods, or a gradient_of, of one score."
        )
    return replace(
        one,
        student=_sum(one.student, other.student),
        teacher=_sum(one.teacher, other.teacher),
        teachers=max(one.teachers, other.teachers),
        teacher_gradient=one.teacher_gradient or other.teacher_gradient,
        teacher_queries=one.teacher_queries or other.teacher_queries,
        student_gradient=max(one.student_gradient, other.student_gradient, key=GRADIENT_USES.index),
        gradient_of=used[0].gradient_of if used else one.gradient_of,
        train_forwards=one.train_forwards + other.train_forwards,
        couples_batch=one.couples_batch or other.couples_batch,
    )


def _sum(one: Passes, other: Passes) -> Passes:
    return Passes(one.forwards + other.forwards, one.backwards + other.backwards)


def method_options(method: Method) -> dict[str, Any]:
    """Return the options of a method that files record, as plain data; "with" has those of added methods."""
    if isinstance(method, Combined):
        return method_options(method.base) | {"with": {one.info.name: method_options(one) for one in method.added}}
    return {name: getattr(method, name) for name in recorded_options(method)}


def with_options(method: Method, options: Mapping[str, Any]) -> Method:
    """Return a method with other values of some options; of a combined method, those of its base."""
    if isinstance(method, Combined):
        return replace(method, base=with_options(method.base, options))
    return replace(method, **options) if options else method  # pyright: ignore[reportArgumentType, reportCallIssue, reportReturnType]


def search_space(method: Method) -> dict[str, SearchRange]:
    """Return the coefficients of a method that are worth tuning, by name; one that is 0 is off and stays off."""
    base = method.base if isinstance(method, Combined) else method
    found = {one.name: one.metadata.get("search") for one in fields(base)}  # pyright: ignore[reportArgumentType]
    return {name: search for name, search in found.items() if search is not None and getattr(base, name)}


def method_class(method: str | Mapping[str, Any] | Method | type[Method]) -> type[Method]:
    """Return the class of a method: of its name, of a recipe's section, or of a method.

    Raises:
        InputError: for an unknown name, or another object.
    """
    name = method.get("name") if isinstance(method, Mapping) else method
    if isinstance(name, Combined):
        return type(name.base)
    if isinstance(name, str):
        if name not in (methods := methods_for(name)):
            raise unknown("method", name, methods)
        return methods[name]
    kind = name if isinstance(name, type) else type(name)
    if not is_dataclass(kind) or not hasattr(kind, "info"):
        raise InputError(
            f"method was {method!r:.60}; it must be a name such as 'kdiga', a method, or a mapping such as "
            "{'name': 'kd', 'temperature': 4}."
        )
    return cast("type[Method]", kind)


def method_by_name(
    method: str | Mapping[str, Any] | Method | type[Method], options: Mapping[str, Any] | None = None
) -> Method:
    """Return a method.

    Args:
        method: Name, for the method with its defaults; mapping as in a recipe, ``{"name": "kd", "temperature": 4}``,
            in which "with" adds terms of other methods, ``{"name": "rslad", "with": {"kdiga": {"ramp": 0.1}}}``; or
            method.
        options: Options that differ.

    Raises:
        InputError: for an unknown name or option.
    """
    kind, options = method_class(method), dict(options or {})
    added: Mapping[str, Any] = {}
    if isinstance(method, Mapping):
        added = _added(method.get("with", {}))
        options = {key: value for key, value in method.items() if key not in ("name", "with")} | options
    names = [one.name for one in fields(kind)]  # pyright: ignore[reportArgumentType]
    for name in options:
        if name not in names:
            raise unknown(f"option of method {kind.info.name!r}", str(name), names)
    if not isinstance(method, (str, Mapping, type)):
        return with_options(method, options)
    base = kind(**options)
    more = tuple(method_by_name(name, given or {}) for name, given in added.items())
    return cast("Method", Combined(base, more)) if more else base


def _added(given: object) -> Mapping[str, Any]:
    """Return the methods of a "with", by name: one name, or a mapping of names to options."""
    if isinstance(given, str):
        return {given: {}}
    if not isinstance(given, Mapping) or not all(isinstance(one, Mapping | None) for one in given.values()):
        raise InputError(f"with was {given!r:.80}; it must map methods to options, such as {{kdiga: {{ramp: 0.1}}}}.")
    return cast("Mapping[str, Any]", given)
