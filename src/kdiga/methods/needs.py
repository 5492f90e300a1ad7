"""What a configured method needs of a step, and what it costs."""

from __future__ import annotations

from dataclasses import dataclass

from kdiga.losses import Score
from kdiga.methods.context import GradientUse


@dataclass(frozen=True)
class Passes:
    """Network passes of one training step.

    Args:
        forwards: forward passes, whether or not they carry a graph.
        backwards: backward passes, one for every forward pass that a gradient goes back through, to the
            images or to the parameters. Double backprop is more work inside one pass and counts once.
    """

    forwards: int = 0
    backwards: int = 0


@dataclass(frozen=True)
class Needs:
    """What a method, with its options as they are, asks for.

    Args:
        student: its passes a step, once every term is switched on.
        teacher: the same of its teachers together.
        teachers: how many models it learns from, 0 to 2.
        teacher_gradient: whether it needs the first teacher's input gradient at clean images.
        teacher_queries: whether it asks a teacher at images other than the clean ones; stored signals
            cannot serve it then.
        trains_teacher: whether its teacher is trained along with the student.
        student_gradient: what it uses the student's own input gradient for.
        gradient_of: of which number an image's input gradient is taken.
        train_forwards: how often batch norm's running statistics of the student move a step.
        couples_batch: whether a term depends on several examples at once in another way than by their mean. Processes
            tell each other what it takes; micro-batches, one after another, cannot.
    """

    student: Passes
    teacher: Passes = Passes()
    teachers: int = 1
    teacher_gradient: bool = False
    teacher_queries: bool = False
    trains_teacher: bool = False
    student_gradient: GradientUse = "none"
    gradient_of: Score = "loss"
    train_forwards: int = 1
    couples_batch: bool = False
