"""One forward pass of the student at a batch of images: its logits, losses and input gradient."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from kdiga.distributed.batch_shards import current_shard
from kdiga.gradients.input_gradient import gradient_by_images
from kdiga.gradients.routes import ParameterGradients, Route
from kdiga.losses import Score, cross_entropy, is_labelled, score_by_name
from kdiga.model_output import logits_at
from kdiga.model_state import (
    BufferState,
    RandomState,
    couples_batch,
    evaluating,
    frozen_parameters,
    frozen_statistics,
    uncounted,
)
from kdiga.stopwatch import Watch, silent

GradientUse = Literal["none", "value", "differentiable"]
"""What a method does with the student's input gradient: nothing, reads it, or trains through it."""

BatchNormMode = Literal["train", "eval"]
"""Normalisation by the batch's statistics, or by the running statistics."""

Forward = Callable[[Tensor], Tensor]

COUPLING = 1e-3
"""Relative change of an example's logits above which they depend on the rest of its batch; rounding is below."""
_COUPLES_BATCH: WeakKeyDictionary[nn.Module, dict[tuple[bool, ...], bool]] = WeakKeyDictionary()
"""Results of the trials, by student and by the modes of its modules."""


@dataclass(frozen=True)
class PassOptions:
    """How a pass of the student runs.

    Args:
        gradient: Use of the input gradient; "none" leaves its part of the graph out.
        route: Way to differentiate the input gradient by the parameters.
        gradient_of: Score of an example that the input gradient is taken of.
        batch_norm: "train" runs the student in its present mode, "eval" in eval mode.
        keep_statistics: Whether batch norm's running statistics stay unchanged.
        label_smoothing: Share of the uniform distribution in the labels of the loss, in [0, 1).
    """

    gradient: GradientUse
    route: Route
    gradient_of: Score = "loss"
    batch_norm: BatchNormMode = "train"
    keep_statistics: bool = False
    label_smoothing: float = 0.0


class StudentPass:
    """The student at one batch of images, each quantity computed once, on first use.

    A compiled forward runs wherever the network is differentiated once. Its backward pass always computes
    every derivative that it was compiled for. So the input gradient gets a separate forward pass there,
    with frozen parameters: that costs less than a parameter gradient that is not used.

    Args:
        student: Module that maps images to logits.
        images: Float (batch, channel, height, width), pixels in [0, 1].
        labels: Labels, int64, shape (batch,).
        options: Use of the input gradient, and how the student runs.
        compiled: Compiled forward of the student; None runs the module.
        watch: Stopwatch for the sections of the pass.
    """

    def __init__(
        self,
        student: nn.Module,
        images: Tensor,
        labels: Tensor,
        options: PassOptions,
        *,
        compiled: Forward | None = None,
        watch: Watch = silent,
    ) -> None:
        gradient = options.gradient
        self._student, self._options, self._watch = student, options, watch
        self._score = score_by_name(options.gradient_of)
        self._twice = gradient == "differentiable" and options.route.double_backward
        self._compiled = None if self._twice else compiled
        # Whether the network runs again at these images, or near them, for the same gradient.
        self._runs_again = not self._twice and (
            gradient == "differentiable" or (gradient == "value" and compiled is not None)
        )
        self._before: tuple[RandomState, BufferState] | None = None
        self.images = images.detach().requires_grad_(gradient != "none" and self._compiled is None)
        self.labels = labels

    @cached_property
    def logits(self) -> Tensor:
        """Float (batch, num_classes), with a graph to the student."""
        if self._runs_again:
            self._before = RandomState(self.images.device), BufferState(self._student)
        with self._watch("student"), self._options.route.forward_context() if self._twice else nullcontext():
            return self._run(self.images, keep_statistics=self._options.keep_statistics)

    @cached_property
    def losses(self) -> Tensor:
        """Cross-entropy of each example in nats, with label smoothing, (batch,)."""
        return cross_entropy(self.logits, self.labels, self._options.label_smoothing)

    @property
    def hard_losses(self) -> Tensor:
        """Cross-entropy of each example in nats, without label smoothing, (batch,)."""
        return cross_entropy(self.logits, self.labels) if self._options.label_smoothing else self.losses

    @cached_property
    def input_gradient(self) -> Tensor:
        """Derivative of each example's score by its pixels, like the images, with a graph to the parameters."""
        scores = self._score(self.logits, self.labels)
        with self._watch("alignment"):
            value = None if self._compiled is None else self.input_gradient_value
            return self._options.route(scores, self.images, self._parameter_gradients(), value)

    @cached_property
    def input_gradient_value(self) -> Tensor:
        """The same numbers without a graph, for one backward pass to the input."""
        scores = self._score(self.logits, self.labels)
        if self._compiled is not None:
            return self._separate_gradient()
        with self._watch("alignment"):
            return gradient_by_images(scores, self.images, retain_graph=True)

    def computed(self) -> tuple[Tensor | None, Tensor | None]:
        """Return the logits and the input gradient, each None if it is not computed yet."""
        known = self.__dict__
        return known.get("logits"), known.get("input_gradient", known.get("input_gradient_value"))

    def _separate_gradient(self) -> Tensor:
        images = self.images.detach().requires_grad_()
        with self._watch("alignment"), frozen_parameters(self._student), self._same_state():
            scores = self._score(self._run(images), self.labels)
            return gradient_by_images(scores, images)

    def _parameter_gradients(self) -> ParameterGradients:
        parameters = tuple(p for p in self._student.parameters() if p.requires_grad)

        def gradient_at(images: Tensor, weights: Tensor) -> Sequence[Tensor | None]:
            with self._watch("alignment"), self._same_state():
                scores = self._score(self._run(images), self.labels)
                return torch.autograd.grad((weights * scores).sum(), parameters, allow_unused=True)

        with self._in_mode():
            return ParameterGradients(parameters, gradient_at, self._couples_batch())

    def _couples_batch(self) -> bool:
        """Return whether an example's logits depend on the rest of its batch, by batch norm or, in a trial, otherwise.

        The trial is made once for a student and its modes, and only where the route takes a difference.
        """
        batch_norm = couples_batch(self._student)
        if batch_norm or self._before is None or len(self.images) < 2:
            return batch_norm
        known = _COUPLES_BATCH.setdefault(self._student, {})
        modes = tuple(module.training for module in self._student.modules())
        if modes not in known:
            known[modes] = self._changes_with_the_batch()
        return known[modes]

    def _changes_with_the_batch(self) -> bool:
        """Return whether the logits of half of the batch change when the other half does."""
        images, half = self.images.detach(), len(self.images) // 2
        other, logits = torch.cat((images[:half], 1 - images[half:] / 2)), list[Tensor]()
        for batch in (images, other):
            with torch.no_grad(), uncounted(), self._same_state():
                logits.append(logits_at(self._student, batch)[:half].float())  # not compiled: it would be once more
        # Every process has to move its images by the same factor.
        differs = (logits[0] - logits[1]).abs().max() > COUPLING * logits[0].abs().max()
        return bool(current_shard().gather(differs.float()).any())

    def _run(self, images: Tensor, *, keep_statistics: bool = False) -> Tensor:
        with self._in_mode(), frozen_statistics(self._student) if keep_statistics else nullcontext():
            return logits_at(self._compiled or self._student, images)

    def _in_mode(self) -> AbstractContextManager[None]:
        return evaluating(self._student) if self._options.batch_norm == "eval" else nullcontext()

    @contextmanager
    def _same_state(self) -> Generator[None]:
        """Run the student from the same random numbers and buffers as the clean pass, without a change of either.

        A difference between two dropout masks, or two estimates of a spectral norm, is not a derivative.
        """
        if self._before is None:
            yield
            return
        random, buffers = self._before
        with random.again(), buffers.again(self._student):
            yield


class StepStatistics:
    """Collects the passes of one step, to count what the loss does not show.

    It reads only what the method computed, so it does not change a bit of the step's result.

    Args:
        device: Device of the counts.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.passes: list[StudentPass] = []

    def counts(self) -> Tensor:
        """Return images with logits, those of them saturated, images with an input gradient, those whose is zero.

        The last two leave out images without a label, whose input gradient is 0.

        Returns:
            Tensor: Float (4,), without synchronisation with the device.
        """
        counts = torch.zeros(4, device=self.device)
        for one in self.passes:
            logits, gradient = one.computed()
            if logits is not None:
                counts[0] += len(logits)
                counts[1] += saturated(logits.detach()).sum()
            if gradient is not None:
                labelled = is_labelled(one.labels)
                counts[2] += labelled.sum()
                counts[3] += (labelled & (gradient.detach() == 0).flatten(1).all(1)).sum()
        return counts


def saturated(logits: Tensor) -> Tensor:
    """Return for each example whether the softmax of its logits is exactly one-hot in float32.

    The largest logit is then more than 103 above the others, and the loss has no slope if it is the right one.
    """
    return (logits.float().softmax(1) > 0).sum(1) == 1
