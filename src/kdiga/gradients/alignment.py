"""Input-gradient alignment as one line in any training loop (Shao et al., 2021, arXiv:2110.12072)."""

from __future__ import annotations

from typing import Literal, overload
from weakref import WeakSet

import torch
from torch import Tensor, nn

from kdiga.arguments import checked
from kdiga.checks import (
    are_probabilities,
    check_distinct,
    check_images,
    check_logits,
    check_same_classes,
    check_targets,
    guesses_of,
    probabilities_of,
)
from kdiga.errors import InputError, warn
from kdiga.gradients.input_gradient import input_gradient_and_logits
from kdiga.gradients.obstacles import compiled_part, obstacle_to_differences, obstacle_to_double_backward
from kdiga.gradients.routes import Exact, Route, route_by_name
from kdiga.gradients.student_pass import PassOptions, StudentPass
from kdiga.losses import distance_by_name, is_labelled, where_labelled
from kdiga.model_output import logits_at
from kdiga.model_state import all_in_eval_mode, evaluating


@overload
def align(
    student: nn.Module,
    teacher: nn.Module | None,
    images: Tensor,
    labels: Tensor | None,
    *,
    distance: str = "l2",
    route: str | Route = "exact",
    teacher_gradient: Tensor | None = None,
    return_logits: Literal[False] = False,
    check_values: bool = True,
) -> Tensor: ...
@overload
def align(
    student: nn.Module,
    teacher: nn.Module | None,
    images: Tensor,
    labels: Tensor | None,
    *,
    distance: str = "l2",
    route: str | Route = "exact",
    teacher_gradient: Tensor | None = None,
    return_logits: Literal[True],
    check_values: bool = True,
) -> tuple[Tensor, Tensor]: ...
@checked
def align(
    student: nn.Module,
    teacher: nn.Module | None,
    images: Tensor,
    labels: Tensor | None,
    *,
    distance: str = "l2",
    route: str | Route = "exact",
    teacher_gradient: Tensor | None = None,
    return_logits: bool = False,
    check_values: bool = True,
) -> Tensor | tuple[Tensor, Tensor]:
    """Return the distance between the student's and the teacher's input gradients: the KDIGA term.

    ``mean_i D(g_s,i , g_t,i)``, with ``g_i`` the gradient of example i's cross-entropy by its own
    pixels. Add it to a distillation loss. Its gradient reaches every parameter of the student and
    no parameter of the teacher.

    The term alone, added to a loss with weight 1 and without a ramp, helps little: on digits 30 epochs reached 44 and
    58 % under PGD-20 (Linf 0.1, two seeds), and plain training 42 and 45 %. What helps: a ramp of the weight over the
    first third of the training; ``distance="l2-squared"``, whose term is small where gradients are small, with a
    weight of about 2 at that data, or larger until clean accuracy falls by a few points; a smooth activation; and
    imitation of the teacher's logits. :class:`kdiga.Distiller` has all of that with tested defaults, and methods that
    are more robust at the same cost: ``kdiga.Distiller(student, teacher, method="tangent", ...)``.

    Args:
        student: Module that maps images to logits (batch, num_classes), in its mode for training. Batch
            norm in train mode moves its statistics once, and couples the batch's examples.
        teacher: Robust model of the same classes. It runs in eval mode and does not change. None is accepted
            together with ``teacher_gradient``.
        images: Float (batch, channel, height, width), pixels in [0, 1], the same for both models:
            normalisation is a layer inside each.
        labels: Labels, integers in [0, num_classes), shape (batch,), -100 for an example without a label, whose term
            is 0; or soft labels, probabilities of shape (batch, num_classes). With None the teacher's predictions
            stand in.
        distance: "l2" (unsquared Euclidean length of an example's gap), "l2-squared", "l1" (the dual
            of Linf) or "cosine" (``1 - cos``).
        route: Second derivative: "exact" (double backprop), "exact-pytorch" (the same by PyTorch's slower kernels),
            "finite-difference" (central) or "one-sided" (first-order passes only), or a
            :class:`kdiga.FiniteDifference` with another probe.
        teacher_gradient: Input gradient of the teacher, shape of ``images``; replaces the teacher's pass.
        return_logits: Whether to return the student's logits of the same forward pass as well, with their graph.
        check_values: Whether to check pixels and labels too. On a GPU every call then waits for the device;
            turn it off once a run has correct data.

    Returns:
        Tensor: Scalar in nats per pixel unit (squared for "l2-squared", unitless for "cosine"), or
            the pair of this scalar and the logits.

    Raises:
        InputError: for images of another rank, type or range, labels out of range, unequal class counts, logits of
            another shape or not finite, an unknown distance or route, neither teacher nor gradient, one module as both
            models, a gradient of another shape, a student on an exact route that cannot be differentiated twice
            (compiled, or with an operation whose second derivative is missing or wrong), a student on a route of
            differences that draws random numbers of its own generator, or a student whose input gradient, or its graph
            to the parameters, is cut off.

    Warns:
        KdigaWarning: if the input gradient is exactly zero on every image with a label, if batch norm and dropout of
            the student are all in eval mode, or at the first call, if a model returns probabilities or the teacher is
            no better than guessing.

    >>> import torch
    >>> student, teacher = (nn.Sequential(nn.Flatten(), nn.Linear(4, 3)) for _ in range(2))
    >>> term = align(student, teacher, images := torch.rand(2, 1, 2, 2), labels := torch.tensor([0, 2]))
    >>> term.backward()
    >>> align(student, student, images, labels)
    Traceback (most recent call last):
    kdiga.errors.InputError: the student and the teacher are the same module, so there is nothing to learn; give
    another model, or a copy, copy.deepcopy(student).
    """
    measure, route = distance_by_name(distance), route_by_name(route)
    check_images(images, values=check_values)
    labels = check_targets(_predictions(teacher, images) if labels is None else labels, images)
    if not len(images):
        raise InputError("the batch was empty; give at least one image, or skip the step.")
    if (parameters := list(student.parameters())) and not any(one.requires_grad for one in parameters):
        raise InputError(
            "no parameter of the student requires a gradient, so the term cannot train it; call "
            "student.requires_grad_(True)."
        )
    if route.double_backward and compiled_part(student) is not None:
        raise InputError(_cannot_be_differentiated_twice("it is compiled"))
    check_distinct(student, teacher)
    student_pass = StudentPass(student, images, labels, PassOptions("differentiable", route))
    check_logits(student_pass.logits, images, who="student", values=check_values)
    check_targets(labels, images, student_pass.logits.shape[-1] if check_values else None)
    if teacher_gradient is None:
        if teacher is None:
            raise InputError("align was given neither a teacher nor a teacher_gradient; give one of them.")
        with evaluating(teacher):
            teacher_gradient, teacher_logits = input_gradient_and_logits(teacher, images, labels, who="teacher")
        check_same_classes(student_pass.logits, teacher_logits)
        if teacher not in _CHECKED.setdefault(nn.Module, WeakSet()):
            _check_teacher_once(teacher, teacher_logits, images, labels)
    elif teacher_gradient.shape != images.shape:
        raise InputError(
            f"teacher_gradient had shape {tuple(teacher_gradient.shape)} and images {tuple(images.shape)}; they must "
            "be equal, row i the gradient at image i."
        )
    _check_gradient(student, student_pass.input_gradient, labels, values=check_values)
    if student not in _CHECKED.setdefault(type(route), WeakSet()):
        _check_once(student, images, labels, route, student_pass.logits)
    target = where_labelled(teacher_gradient.detach(), labels)
    term = measure(student_pass.input_gradient, target).mean()
    return (term, student_pass.logits) if return_logits else term


def _predictions(teacher: nn.Module | None, images: Tensor) -> Tensor:
    if teacher is None:
        raise InputError("labels were None and so was the teacher, whose predictions stand in for them; give one.")
    with torch.no_grad(), evaluating(teacher):
        return logits_at(teacher, images).argmax(1)


_CHECKED: dict[type, WeakSet[nn.Module]] = {}
"""Students that were found to suit a route, by its class, and teachers whose outputs were looked at, by nn.Module."""


def _check_once(student: nn.Module, images: Tensor, labels: Tensor, route: Route, logits: Tensor) -> None:
    """Check what needs more passes of the student, at its first call."""
    if isinstance(route, Exact):
        obstacle = obstacle_to_double_backward(student, images[:2], labels[:2], route, always=False)
        if obstacle is not None:
            raise InputError(_cannot_be_differentiated_twice(obstacle))
    elif (obstacle := obstacle_to_differences(student, images)) is not None:
        raise InputError(
            f"route was {route}, and a difference of two passes of the student is not a derivative ({obstacle}); use "
            "route 'exact', or PyTorch's global random numbers."
        )
    _warn_of_probabilities("student", logits)
    _CHECKED[type(route)].add(student)


def _check_teacher_once(teacher: nn.Module, logits: Tensor, images: Tensor, labels: Tensor) -> None:
    """Check that a teacher can teach, at its first call."""
    check_logits(logits, images, who="teacher")
    _warn_of_probabilities("teacher", logits)
    if labels.dim() == 1:
        right, labelled = (logits.argmax(1) == labels).sum(), (labels >= 0).sum()
        if (guesses := guesses_of("teacher", float(right), float(labelled), logits.shape[1])) is not None:
            warn(guesses)
    _CHECKED[nn.Module].add(teacher)


def _warn_of_probabilities(who: str, logits: Tensor) -> None:
    if are_probabilities(logits):
        warn(probabilities_of(who))


def _cannot_be_differentiated_twice(why: str) -> str:
    return (
        f"route was 'exact', and the student cannot be differentiated twice ({why}); use route 'finite-difference', or "
        "change that module."
    )


def _check_gradient(student: nn.Module, gradient: Tensor, labels: Tensor, *, values: bool) -> None:
    """Check that the term can train the student; check the gradient's values only if ``values`` is set."""
    if not gradient.requires_grad and any(parameter.requires_grad for parameter in student.parameters()):
        raise InputError(
            "the student's input gradient has no graph to its parameters, so the term cannot train it: "
            "rounding in its forward pass, or a backward pass written without a graph. Let the gradient through; or "
            "use route 'finite-difference', where its value is right."
        )
    if values and is_labelled(labels).any() and not gradient.detach().any():
        warn(
            "the student's input gradient is exactly zero on every image, so aligning it does nothing: a hard clamp or "
            "rounding in its forward pass, dead activations, or saturated logits. Let the gradient through."
        )
    if all_in_eval_mode(student):
        warn("the student's batch norm and dropout are in eval mode; to train it, call student.train() first.")
