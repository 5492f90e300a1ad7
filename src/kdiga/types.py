"""The basic types of the library: threat model, batch, teacher signal, loss term and objective."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from fractions import Fraction
from typing import Any, Literal, cast

import torch
from torch import Tensor

from kdiga.arguments import check_fields
from kdiga.errors import InputError

Norm = Literal["linf", "l2", "l1"]
LONGEST = 100  # characters of a number


def added_option(default: Any, **metadata: Any) -> Any:
    """Return a dataclass field that files leave out at its default, so that they stay those of earlier versions."""
    return field(default=default, metadata={"added": True} | metadata)


def recorded_options(options: Any) -> list[str]:
    """Return the names of a dataclass's fields that files record."""
    return [
        one.name
        for one in fields(options)
        if not one.metadata.get("added") or getattr(options, one.name) != one.default
    ]


def parse_number(text: str | float) -> float:
    """Return a number written as ``0.1``, ``1e-2`` or a fraction such as ``8/255``.

    Raises:
        InputError: if the text is none of these.

    >>> parse_number("51/255")
    0.2
    """
    # A fraction is exact, and one of 1e999999999 has a billion digits.
    if isinstance(text, str) and (len(text) > LONGEST or re.search(r"e[+-]?\d{4}", text, re.IGNORECASE)):
        raise InputError(f"{text!r:.60} is too large or too long for a number; write it as 0.1 or as 8/255.")
    try:
        number = float(text) if not isinstance(text, str) else float(Fraction(text.replace(" ", "")))
    except (ValueError, ArithmeticError):
        raise InputError(f"{text!r} is not a number; write it as 0.1 or as a fraction such as 8/255.") from None
    return number


@dataclass(frozen=True)
class ThreatModel:
    """The changes that an adversary may make to an image: any of at most ``eps`` in ``norm``.

    Args:
        norm: "linf", "l2" or, for evaluation alone, "l1", in any case.
        eps: Size in pixels in [0, 1]: for Linf the largest change of one pixel, for L2 the Euclidean length over
            one image, for L1 the sum of all changes.

    Raises:
        InputError: for another norm, a negative or infinite eps, or an Linf eps above 1.

    >>> ThreatModel("Linf", 0.5)
    ThreatModel(norm='linf', eps=0.5)
    """

    norm: Norm = "linf"
    eps: float = 8 / 255

    @classmethod
    def parse(cls, norm: str, eps: float | str) -> ThreatModel:
        """Return the threat model of a norm and a number or fraction such as "8/255".

        Raises:
            InputError: as the class does.
        """
        return cls(cast("Norm", norm), parse_number(eps))

    @classmethod
    def of(cls, threat: ThreatModel | str | None) -> ThreatModel:
        """Return a threat model: itself, from text such as "linf 8/255", or the default for None.

        Raises:
            InputError: for other text or another object, and as the class does.

        >>> ThreatModel.of("L2 0.5")
        ThreatModel(norm='l2', eps=0.5)
        """
        if threat is None or isinstance(threat, ThreatModel):
            return threat or cls()
        words = threat.split() if isinstance(threat, str) else ()  # pyright: ignore[reportUnnecessaryIsInstance]
        if len(words) != 2:
            raise InputError(
                f"threat was {threat!r:.60}; it must be a norm and an eps, such as 'linf 8/255', or a "
                "kdiga.ThreatModel."
            )
        return cls.parse(*words)

    def __post_init__(self) -> None:
        object.__setattr__(self, "norm", str(self.norm).lower())
        check_fields(self)
        if not math.isfinite(self.eps) or self.eps < 0:
            raise InputError(f"eps was {self.eps:g}; it must be a finite number of at least 0, in pixels in [0, 1].")
        if self.norm == "linf" and self.eps > 1:
            raise InputError(
                f"eps was {self.eps:g}; an Linf eps is in [0, 1], because pixels are. Did you mean {self.eps:g}/255?"
            )


def refuse_l1(threat: ThreatModel, what: str) -> ThreatModel:
    """Return a threat model for something that is not defined under L1.

    Raises:
        InputError: If its norm is L1.
    """
    if threat.norm == "l1":
        raise InputError(f"the norm was 'l1', which only evaluation accepts; {what} is defined under 'linf' and 'l2'.")
    return threat


@dataclass(frozen=True)
class Batch:
    """Images, their labels, and their origin in the data set.

    Args:
        images: Float (batch, channel, height, width), pixels in [0, 1].
        labels: Labels, int64, shape (batch,), in [0, num_classes), or -100 for an example without a label; or
            probabilities, float (batch, num_classes).
        index: Rows in the data set, int64, shape (batch,); on the CPU, where a teacher cache reads them.
        view: Number of the repeatable augmentation.
    """

    images: Tensor
    labels: Tensor
    index: Tensor
    view: int = 0

    def first(self, count: int) -> Batch:
        """Return the first ``count`` examples."""
        return self.rows(slice(count))

    def spread(self, count: int) -> Batch:
        """Return ``count`` examples spread evenly over the batch: every part of it gives the same share."""

        def some(tensor: Tensor) -> Tensor:  # the index may be on another device
            return tensor[torch.arange(count, device=tensor.device) * len(tensor) // count]

        return replace(self, images=some(self.images), labels=some(self.labels), index=some(self.index))

    def rows(self, rows: slice) -> Batch:
        """Return a range of examples."""
        return replace(self, images=self.images[rows], labels=self.labels[rows], index=self.index[rows])


@dataclass(frozen=True)
class TeacherSignal:
    """The teacher's outputs for one batch, without an autograd graph.

    Args:
        logits: Float (batch, num_classes).
        input_gradient: Shape of the images, row i the derivative of example i's cross-entropy by its
            own pixels (nats per pixel unit); None if the method does not need it.
    """

    logits: Tensor
    input_gradient: Tensor | None


@dataclass(frozen=True)
class Term:
    """One weighted part of an objective; ``value`` is a scalar, a mean over the batch."""

    name: str
    weight: float
    value: Tensor


@dataclass(frozen=True)
class Objective:
    """The loss terms that the student minimises at one step."""

    terms: Sequence[Term]

    def total(self) -> Tensor:
        """Return the weighted sum of the terms, a scalar with a graph to the student."""
        first, *rest = (term.weight * term.value for term in self.terms)
        return sum(rest, start=first)
