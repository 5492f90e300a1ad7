"""Whether the teachers at hand can teach a method, told before anything runs."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from kdiga.errors import InputError
from kdiga.gradients.student_pass import Forward
from kdiga.methods import Method, Needs
from kdiga.methods.context import Teacher
from kdiga.teachers import CachedTeacher, OnlineTeacher


def teachers_of(
    method: Method, teacher: nn.Module | Teacher | None, second_teacher: nn.Module | Teacher | None
) -> list[nn.Module | Teacher]:
    """Return the teachers that a method uses of those that were given, in order.

    Raises:
        InputError: if there are too few, if stored signals were given to a method that asks at images
            of its own making, or if it trains its teacher and was given no model.
    """
    name, needs = method.info.name, method.needs
    if needs.teachers >= 1 and teacher is None:
        raise InputError(f"method {name!r} needs a teacher and none was given; pass a robust model.")
    if needs.teachers == 2 and second_teacher is None:
        raise InputError(
            f"method {name!r} needs a second teacher and none was given; pass second_teacher, a natural model."
        )
    used = [one for one in (teacher, second_teacher)[: needs.teachers] if one is not None]
    for one in used:
        if needs.teacher_queries and not isinstance(one, nn.Module) and not one.answers_queries:
            raise InputError(
                f"method {name!r} asks the teacher at images of its own making and was given stored signals, which "
                "know clean images only; give the live model, or a method that does not ask (see kdiga methods)."
            )
    if needs.trains_teacher and not isinstance(used[0], nn.Module):
        raise InputError(f"method {name!r} trains its teacher along and was given stored signals; give a model.")
    return used


def teacher_source(
    teacher: nn.Module | Teacher, needs: Needs, *, first: bool, compiled: Forward | None = None
) -> Teacher:
    """Return a teacher as a source of signals; only the first is asked for input gradients."""
    if isinstance(teacher, CachedTeacher):
        return replace(teacher, gradient=needs.teacher_gradient and first)
    if not isinstance(teacher, nn.Module):
        return teacher
    return OnlineTeacher(teacher, needs.teacher_gradient and first, needs.gradient_of, compiled)
