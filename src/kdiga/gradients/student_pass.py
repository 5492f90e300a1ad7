"""The student at one batch of images: one forward pass serves logits, losses and input gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn

from kdiga.gradients.differentiation import by_images
from kdiga.gradients.routes import ParameterGradients, Route
from kdiga.losses import Score, cross_entropy, score_by_name
from kdiga.model_state import RandomState, couples_batch, evaluating, frozen_parameters, frozen_statistics
from kdiga.stopwatch import Watch, silent

GradientUse = Literal["none", "value", "differentiable"]
"""What a method does with the student's input gradient: nothing, reads it, or trains through it."""

BatchNormMode = Literal["train", "eval"]
"""Batch norm by the batch's own statistics, or by the running ones."""

Forward = Callable[[Tensor], Tensor]


class StudentPass:
    """The student at one batch of images, each quantity computed on first use.

    A compiled forward is used wherever the network is differentiated once. Its backward pass always forms
    every derivative it was compiled for, so the input gradient gets a forward pass of its own there,
    with the parameters frozen: that is cheaper than a parameter gradient that nobody wants.

    Args:
        student: maps images to logits, in the mode it should run in.
        images: float (batch, channel, height, width).
        labels: int64 (batch,).
        gradient: what the input gradient will be used for; "none" skips its part of the graph.
        route: how a differentiable input gradient gets its derivative by the parameters.
        gradient_of: of which number of an example the input gradient is taken.
        batch_norm: "train" runs the student in the mode it is in, "eval" in eval mode.
        compiled: the student's forward, compiled; None runs the module.
        keep_statistics: leave batch norm's running statistics as they are.
        watch: told what is being computed.
    """

    def __init__(
        self,
        student: nn.Module,
        images: Tensor,
        labels: Tensor,
        *,
        gradient: GradientUse,
        route: Route,
        gradient_of: Score = "loss",
        batch_norm: BatchNormMode = "train",
        compiled: Forward | None = None,
        keep_statistics: bool = False,
        watch: Watch = silent,
    ) -> None:
        self._student, self._route, self._watch = student, route, watch
        self._score, self._batch_norm, self._keep_statistics = score_by_name(gradient_of), batch_norm, keep_statistics
        self._twice = gradient == "differentiable" and route.double_backward
        self._compiled = None if self._twice else compiled
        # Whether the network runs at these images again, or near them, for the same gradient.
        self._returns = not self._twice and (
            gradient == "differentiable" or (gradient == "value" and compiled is not None)
        )
        self._random: RandomState | None = None
        self.images = images.detach().requires_grad_(gradient != "none" and self._compiled is None)
        self.labels = labels

    @cached_property
    def logits(self) -> Tensor:
        """Float (batch, num_classes), with a graph to the student."""
        if self._returns:
            self._random = RandomState(self.images.device)
        with self._watch("student"), self._route.forward_context() if self._twice else nullcontext():
            return self._run(self.images, leave_no_trace=self._keep_statistics)

    @cached_property
    def losses(self) -> Tensor:
        """Cross-entropy of each example in nats, (batch,)."""
        return cross_entropy(self.logits, self.labels)

    @cached_property
    def input_gradient(self) -> Tensor:
        """Row i is the derivative of example i's score by its pixels, with a graph to the parameters."""
        scores = self._score(self.logits, self.labels)
        with self._watch("alignment"):
            value = None if self._compiled is None else self.input_gradient_value
            return self._route(scores, self.images, self._surroundings(), value)

    @cached_property
    def input_gradient_value(self) -> Tensor:
        """The same numbers without a graph, for one backward pass to the input."""
        scores = self._score(self.logits, self.labels)
        if self._compiled is not None:
            return self._separate_gradient()
        with self._watch("alignment"):
            return by_images(scores, self.images, keep=True)

    def computed(self) -> tuple[Tensor | None, Tensor | None]:
        """Return the logits and the input gradient, each None where nobody asked for it yet."""
        known = self.__dict__
        return known.get("logits"), known.get("input_gradient", known.get("input_gradient_value"))

    def _separate_gradient(self) -> Tensor:
        images = self.images.detach().requires_grad_()
        with self._watch("alignment"), frozen_parameters(self._student), self._again():
            scores = self._score(self._run(images, leave_no_trace=True), self.labels)
            return by_images(scores, images)

    def _surroundings(self) -> ParameterGradients:
        parameters = tuple(p for p in self._student.parameters() if p.requires_grad)

        def gradient_at(images: Tensor, weights: Tensor) -> Sequence[Tensor | None]:
            with self._watch("alignment"), self._again():
                scores = self._score(self._run(images, leave_no_trace=True), self.labels)
                return torch.autograd.grad((weights * scores).sum(), parameters, allow_unused=True)

        with self._in_mode():
            return ParameterGradients(parameters, gradient_at, couples_batch(self._student))

    def _run(self, images: Tensor, *, leave_no_trace: bool) -> Tensor:
        with self._in_mode(), frozen_statistics(self._student) if leave_no_trace else nullcontext():
            return (self._compiled or self._student)(images)

    def _in_mode(self) -> AbstractContextManager[None]:
        return evaluating(self._student) if self._batch_norm == "eval" else nullcontext()

    def _again(self) -> AbstractContextManager[None]:
        # The same dropout as in the clean pass: a difference between two masks is no derivative.
        return nullcontext() if self._random is None else self._random.again()
