"""How far a chapter's numbers can be believed, in sentences computed from how they were measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from kdiga.report.chapters import PLAIN, Chapter, ReportedModel
from kdiga.report.gaps import Gap, gap_of
from kdiga.report.wording import listed, signed
from kdiga.results.attack_names import attack_name
from kdiga.results.fields import fields

MOST = 4  # names in a sentence


def trust(chapter: Chapter, gaps: Sequence[Gap], taught: Sequence[ReportedModel]) -> list[str]:
    """Return what speaks for and against the numbers.

    Args:
        chapter: whose numbers.
        gaps: the differences that its verdict rests on.
        taught: students among which the best was looked for.
    """
    return [
        *_checks(chapter),
        *_attack(chapter),
        *_untaught(chapter, taught),
        *_images(gaps),
        *_choice(taught),
        *_seeds(chapter),
    ]


def _checks(chapter: Chapter) -> list[str]:
    sentences: list[str] = []
    checked = [one for one in chapter.members if one.findings]
    for verdict, words in (("failed", "failed"), ("warning", "drew a warning from")):
        # Models that the same checks are about share a sentence.
        alike: dict[tuple[tuple[str, ...], int], list[str]] = {}
        for member in checked:
            found = tuple(finding.name for finding in member.findings if finding.verdict == verdict)
            if found:
                alike.setdefault((found, len(member.findings)), []).append(member.name)
        sentences += [
            f"{listed(members)} {words} {len(found)} of {count} checks: {listed(found)}."
            for (found, count), members in alike.items()
        ]
    sentences += [
        f"{finding.name}: {finding.message}"
        for explanation in chapter.explanations
        for finding in explanation.findings
        if finding.verdict == "failed"
    ]
    sentences += [
        f"{one.name or one.model} as a teacher: {one.summary}"
        for one in chapter.suitabilities
        if any(finding.verdict == "failed" for finding in one.findings)
    ]
    good = [one for one in checked if not any(finding.verdict in ("failed", "warning") for finding in one.findings)]
    if good:
        sentences.append(f"{_some([one.name for one in good])} passed all checks for masked gradients that were made.")
    unchecked = [one.name for one in chapter.members if one.accuracy and not one.findings]
    if unchecked:
        whom = "Nobody" if not checked else "For " + _some(unchecked) + " nobody"
        sentences.append(f"{whom} checked whether gradients are masked; attacks may be fooled by that.")
    return sentences


def _some(values: Sequence[str]) -> str:
    return listed(values if len(values) <= MOST else [*values[:MOST], f"{len(values) - MOST} more"])


def untaught_rival(chapter: Chapter, best: ReportedModel) -> tuple[ReportedModel, Gap] | None:
    """Return the most robust model that had no teacher, if it is not less robust than the best taught one.

    Args:
        chapter: of both.
        best: the most robust taught student.

    Returns:
        the model, and its robust accuracy less the student's; None where that is below 0 or all had teachers.
    """
    alone = [
        one
        for one in chapter.students
        if one.run and not one.run.teacher and one.method not in PLAIN and one.of(chapter.attack)
    ]
    if not alone or chapter.attack is None:
        return None
    gap = gap_of(alone[0].accuracy[chapter.attack], best.accuracy[chapter.attack])
    return None if gap is None or gap.sign < 0 else (alone[0], gap)


def _untaught(chapter: Chapter, taught: Sequence[ReportedModel]) -> list[str]:
    rival = untaught_rival(chapter, taught[0]) if taught else None
    if rival is None:
        return []
    one, gap = rival
    how = "more robust than" if gap.sign else "not told apart from"
    points = f"{signed(gap.value)} points, 95 %: {signed(gap.low)} to {signed(gap.high)}"
    return [
        f"{one.name} had no teacher and is {how} {taught[0].name} ({points}): robustness like this can come from "
        "training alone."
    ]


def _attack(chapter: Chapter) -> list[str]:
    attack = chapter.attack
    if attack is None:
        return []
    versions = sorted({one.version for member in chapter.members for one in member.evaluations if one.version})
    doubted = [one.name for one in chapter.members if any(any(found.notes.values()) for found in one.evaluations)]
    notes = [f"AutoAttack itself has doubts about {listed(doubted)}; see the findings."] if doubted else []
    if attack == "autoattack":
        return [f"Robust accuracy is AutoAttack's{f', version {listed(versions)}' if versions else ''}.", *notes]
    return [
        f"Robust accuracy is {attack_name(attack)}'s alone. A stronger attack can only find more, so true robustness "
        "is at most this; AutoAttack was not run on teacher and students both."
    ]


def _images(gaps: Sequence[Gap]) -> list[str]:
    if not gaps:
        return []
    counts = sorted({min(gap.first.images, gap.second.images) for gap in gaps})
    widest = max(gap.high - gap.low for gap in gaps) / 2
    images = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
    sentences = [f"Differences rest on {images} images and are known to about ± {100 * widest:.0f} points or better."]
    if unpaired := sum(not gap.paired for gap in gaps):
        sentences.append(
            f"{unpaired} of {len(gaps)} differences are not of the same images, so their intervals are wider."
        )
    if any(gap.assumed for gap in gaps):
        sentences.append("Some files do not name their images: the same number of one data set was taken for the same.")
    return sentences


def _choice(taught: Sequence[ReportedModel]) -> list[str]:
    if len(taught) < 3:
        return []
    return [
        f"The most robust of {len(taught)} students was picked by these same images, which favours it; judge it "
        "anew on others before building on it."
    ]


def _seeds(chapter: Chapter) -> list[str]:
    ran = [one.run for one in chapter.students if one.run]
    if not ran:
        return ["Intervals are over test images; they do not cover what another seed of training would give."]
    recipes = Counter(str(_without_seed(run.recipe)) for run in ran)
    if max(recipes.values()) > 1:
        return ["Intervals are over test images; compare the runs of one method for what another seed gives."]
    return ["Each method is here with one seed: intervals are over test images, not over what other seeds would give."]


def _without_seed(recipe: Mapping[str, Any]) -> dict[str, Any]:
    training = {key: value for key, value in fields(recipe.get("training")).items() if key != "seed"}
    return {**recipe, "training": training}
