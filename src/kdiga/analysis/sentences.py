"""The answer in words, by fixed rules from the numbers and their intervals; docs/explain.md states the rules."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from kdiga.analysis.explanation import Explained, Explanation
from kdiga.analysis.ranking import FEWEST_MODELS, Ranking
from kdiga.analysis.resampling import Interval, mean_interval, ratio_interval
from kdiga.results.attack_names import attack_name
from kdiga.statistics import paired_difference

ALIGNED, UNALIGNED = 0.5, 0.25  # cosines from which on gradients point along the teacher's, and below which they do not
NEARLY_ALL, HALF = 0.9, 0.5  # shares of the teacher's robust accuracy
SIGNIFICANCE = 0.05  # of an order of students
PIECES = {
    "linearity": "the student's own non-linearity",
    "teacher_gradient": "the teacher's gradient",
    "gradient_distance": "the distance between the gradients",
    "clean_gap": "the gap on the clean images",
    "student_linearity": "the student's non-linearity",
    "teacher_linearity": "the teacher's non-linearity",
}


def transfer_of(explanation: Explanation) -> list[str]:
    """Return how much of the teacher's robustness each student has."""
    said = [] if explanation.teacher_is_robust else [_no_robustness(explanation)]
    return said + [_kept(explanation, student) for student in explanation.students]


def reasons_of(explanation: Explanation) -> list[str]:
    """Return what the other numbers say of why, whatever it is: students side by side, rankings, then each student."""
    students = explanation.students
    said = [_extremes(explanation)] if len(students) > 1 else []
    said += _rankings(explanation)
    for student in students:
        said += [_agreement(explanation, student), _linearity(explanation, student)]
    return said


def _no_robustness(explanation: Explanation) -> str:
    robust = fmean(explanation.teacher.robust)
    return (
        f"{explanation.teacher.name} has no robustness to pass on: {robust:.1%} under "
        f"{attack_name(explanation.attack)}, where guessing gives {1 / explanation.num_classes:.1%}."
    )


def _kept(explanation: Explanation, student: Explained) -> str:
    ours, theirs = fmean(student.robust), fmean(explanation.teacher.robust)
    kept, interval = explanation.kept(student), explanation.kept_interval(student)
    if kept is None:
        return f"{student.name}: {ours:.1%} under {attack_name(explanation.attack)}."
    return (
        f"{student.name} has {kept:.0%}{_within(interval, '.0%')} of the teacher's robust accuracy ({ours:.1%} of "
        f"{theirs:.1%} under {attack_name(explanation.attack)}): {_verdict(interval)}."
    )


def _verdict(interval: Interval | None) -> str:
    if interval is None:
        return "one image decides nothing"
    low, high = interval
    if low >= 1:
        return "at least as much"
    if low >= NEARLY_ALL:
        return "nearly all of it"
    if low >= HALF:
        return "more than half of it"
    return "less than half of it" if high < HALF else "whether more than half of it, these images do not decide"


def _agreement(explanation: Explanation, student: Explained) -> str:
    assert student.agreement is not None
    defined = student.agreement.defined
    if not defined:
        return f"{student.name}: a gradient is zero on every image, so agreement with the teacher's is undefined."
    interval = mean_interval(defined, explanation.seed)
    low, high = interval or (-1.0, 1.0)
    how = "point partly along"
    if low >= ALIGNED:
        how = "point along"
    elif high < UNALIGNED:
        how = "do not point along"
    pair = ratio_interval(student.agreement.distance, explanation.teacher.gradient_norm, explanation.seed)
    reference = fmean(explanation.teacher.gradient_norm)
    apart = ""
    if reference > 0:
        ratio = fmean(student.agreement.distance) / reference
        apart = f"; their distance is {ratio:.1f}{_within(pair, '.1f')} times the length of the teacher's"
    return (
        f"{student.name}: its input gradients {how} the teacher's (cosine {fmean(defined):.2f}"
        f"{_within(interval, '.2f')}){apart}."
    )


def _linearity(explanation: Explanation, student: Explained) -> str:
    assert student.student_bound is not None
    ours, theirs = fmean(student.linearity), fmean(explanation.teacher.linearity)
    interval = ratio_interval(student.linearity, explanation.teacher.linearity, explanation.seed)
    versus = "" if theirs == 0 else f", {ours / theirs:.1f}{_within(interval, '.1f')} times the teacher's"
    bound = student.student_bound
    piece, share = bound.largest_piece
    tight = ""
    if share is not None and bound.tightness is not None:
        tight = (
            f" The student bound allows a rise of {bound.mean:.2f} nats, {share:.0%} of it {PIECES[piece]}; "
            f"{fmean(bound.measured):.2f} were found (tightness {bound.tightness:.2f})."
        )
    return f"{student.name}: its loss leaves its tangent by up to {ours:.2f} nats within the ball{versus}.{tight}"


def _extremes(explanation: Explanation) -> str:
    """Compare the most and the least robust student, piece by piece, over the same images."""
    ordered = sorted(explanation.students, key=lambda student: fmean(student.robust))
    least, most = ordered[0], ordered[-1]
    difference, low, high = paired_difference(most.robust, least.robust)
    told = f"{100 * difference:.1f} points [{100 * low:.1f}, {100 * high:.1f}]"
    if low <= 0 <= high:
        return f"Between the most and the least robust student, {most.name} and {least.name}, lie {told}: undecided."
    shown = ", ".join(_side_by_side(explanation, most, least))
    return f"{most.name} is more robust than {least.name} by {told}. What differs: {shown}."


def _side_by_side(explanation: Explanation, most: Explained, least: Explained) -> list[str]:
    assert most.agreement is not None
    assert least.agreement is not None
    rows = [
        ("non-linearity", most.linearity, least.linearity, False),
        ("gradient distance", most.agreement.distance, least.agreement.distance, False),
        ("gradient length", most.gradient_norm, least.gradient_norm, False),
        ("cosine", most.agreement.cosine, least.agreement.cosine, True),
    ]
    told = list[str]()
    for name, ours, theirs, more_is_better in rows:
        pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if a is not None and b is not None]
        if not pairs:
            continue
        gap = mean_interval([a - b for a, b in pairs], explanation.seed) or (-1.0, 1.0)
        better = gap[0] > 0 if more_is_better else gap[1] < 0
        worse = gap[1] < 0 if more_is_better else gap[0] > 0
        how = "as expected" if better else "against expectation" if worse else "undecided"
        told.append(f"{name} {fmean(a for a, _ in pairs):.2f} against {fmean(b for _, b in pairs):.2f} ({how})")
    return told


def _rankings(explanation: Explanation) -> list[str]:
    count = len(explanation.students)
    if count < FEWEST_MODELS:
        given = "1 student is" if count == 1 else f"{count} students are"
        return [f"{given} not enough to say how the bounds rank students; give at least {FEWEST_MODELS}."]
    by_name = {ranking.bound: ranking for ranking in explanation.rankings()}
    bounds = [_ranking(explanation, by_name[name]) for name in ("student bound", "transfer bound")]
    return [*bounds, _pieces(list(by_name.values()))]


def _ranking(explanation: Explanation, ranking: Ranking) -> str:
    attack = attack_name(explanation.attack)
    if ranking.spearman is None or ranking.p_value is None:
        return f"The {ranking.bound} cannot be held against {attack}: all students are equal in one of them."
    how = "orders" if _orders(ranking) else "is not shown to order"
    return (
        f"The {ranking.bound} {how} these {ranking.models} students as {attack} does: rank correlation "
        f"{ranking.spearman:.2f}{_within(ranking.interval_95, '.2f')} over images; an order drawn by chance does as "
        f"well with probability {ranking.p_value:.2g}."
    )


def _pieces(rankings: Sequence[Ranking]) -> str:
    """Say which of the bounds' pieces, and of what they are held against, order the students."""
    alone = [ranking for ranking in rankings if not ranking.bound.endswith(" bound")]

    def told(orders: bool) -> str:
        shown = (
            f"{ranking.bound} ({'undefined' if ranking.spearman is None else f'{ranking.spearman:.2f}'})"
            for ranking in alone
            if _orders(ranking) is orders
        )
        return ", ".join(shown)

    orders, unclear = told(True), told(False)
    parts = [f"this orders them: {orders}"] if orders else []
    parts += [f"this is not shown to: {unclear}"] if unclear else []
    return f"By itself, {'; '.join(parts)}."


def _orders(ranking: Ranking) -> bool:
    if ranking.p_value is None or ranking.interval_95 is None:
        return False
    return ranking.interval_95[0] > 0 and ranking.p_value < SIGNIFICANCE


def _within(interval: Interval | None, form: str) -> str:
    return "" if interval is None else f" [{interval[0]:{form}}, {interval[1]:{form}}]"
