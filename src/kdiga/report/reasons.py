"""Why one student is more robust than another, in at most three sentences: what differs, and by how much."""

from __future__ import annotations

from kdiga.report.groups import ModelGroup, ReportedModel
from kdiga.results.explanations import ExplainedModel
from kdiga.statistics import percent

CAUSES = {
    "linearity": "the curvature of the student's loss",
    "teacher_gradient": "the size of the teacher's gradient",
    "gradient_distance": "the distance between the gradients",
}
Explained = tuple[ReportedModel, ExplainedModel]


def reasons(group: ModelGroup, best: ReportedModel | None, plain: ReportedModel | None) -> list[str]:
    """Return what an explanation measured on the best student, compared with the plain or the least robust one."""
    explained = [(one, one.explained) for one in group.students if one.explained]
    if not explained:
        return []
    first = next((pair for pair in explained if pair[0] is best), explained[0])
    other = next((pair for pair in explained if pair[0] is plain), explained[-1])
    pair = None if other[0] is first[0] else other
    found = [_curvature(first, pair), _gradients(first, pair), _bound(first, pair)]
    return [sentence for sentence in found if sentence]


def _curvature(first: Explained, other: Explained | None) -> str:
    own = first[1].linearity.mean
    if own is None:
        return ""
    text = f"Within eps of an image, the loss of {first[0].name} deviates from a straight line by {own:.2f} nats"
    if other is None or (value := other[1].linearity.mean) is None:
        return f"{text}."
    meaning = "a straighter loss leaves less for an attack to gain" if own < value else "so this is not the reason"
    return f"{text}, that of {other[0].name} by {value:.2f}; {meaning}."


def _gradients(first: Explained, other: Explained | None) -> str:
    cosine = first[1].gradient.cosine
    if cosine is None:
        return ""
    text = f"The input gradients of {first[0].name} have a cosine of {cosine:.2f} with the teacher's"
    if other is None or (value := other[1].gradient.cosine) is None:
        return f"{text}; 1 is perfect alignment."
    meaning = "better aligned" if cosine > value else "not better aligned, so this is not the reason"
    return f"{text}, those of {other[0].name} {value:.2f} (1 is perfect alignment): they are {meaning}."


def _bound(first: Explained, other: Explained | None) -> str:
    bound = first[1].known_bounds.get("student")
    if bound is None or bound.mean <= 0 or not bound.pieces:
        return ""
    cause, size = max(bound.pieces.items(), key=lambda piece: piece[1])
    share = f"; {percent(size / bound.mean, 0)} of that bound is {CAUSES.get(cause, cause.replace('_', ' '))}"
    rise = f"An attack can raise the loss of {first[0].name} by at most {bound.mean:.2f} nats on average"
    others = other[1].known_bounds.get("student") if other else None
    return (
        f"{rise}{share}."
        if others is None or other is None
        else f"{rise}, that of {other[0].name} by {others.mean:.2f}{share}."
    )
