"""How far numbers can be believed, in sentences computed from how they were measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from kdiga.report.differences import AccuracyDifference, difference_of
from kdiga.report.groups import PLAIN, ModelGroup, ReportedModel
from kdiga.report.tables import listed, signed, some_names
from kdiga.results.attack_names import attack_name
from kdiga.results.fields import fields


def reliability(
    group: ModelGroup, differences: Sequence[AccuracyDifference], taught: Sequence[ReportedModel]
) -> list[str]:
    """Return what speaks for and against the numbers.

    The verdict rests on the differences, and names the best of the ``taught`` students.
    """
    return [
        *_checks(group),
        *_attack(group),
        *_without_teacher(group, taught),
        *_images(differences),
        *_choice(taught),
        *_seeds(group),
    ]


def _checks(group: ModelGroup) -> list[str]:
    sentences: list[str] = []
    checked = [one for one in group.members if one.findings]
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
        for explanation in group.explanations
        for finding in explanation.findings
        if finding.verdict == "failed"
    ]
    sentences += [
        f"{one.name or one.model} as a teacher: {one.summary}"
        for one in group.suitabilities
        if any(finding.verdict == "failed" for finding in one.findings)
    ]
    good = [one for one in checked if not any(finding.verdict in ("failed", "warning") for finding in one.findings)]
    if good:
        sentences.append(
            f"{some_names([one.name for one in good])} passed all checks for masked gradients that were made."
        )
    unchecked = [one.name for one in group.members if one.accuracy and not one.findings]
    if unchecked:
        whom = "Nobody" if not checked else "For " + some_names(unchecked) + " nobody"
        sentences.append(f"{whom} checked whether gradients are masked; attacks may be fooled by that.")
    return sentences


def rival_without_teacher(group: ModelGroup, best: ReportedModel) -> tuple[ReportedModel, AccuracyDifference] | None:
    """Return the most robust model that had no teacher, and its robust accuracy less the best taught student's.

    It is None if that is below 0 or all models had teachers.
    """
    alone = [
        one
        for one in group.students
        if one.run and not one.run.teacher and one.method not in PLAIN and one.under(group.attack)
    ]
    if not alone or group.attack is None:
        return None
    difference = difference_of(alone[0].accuracy[group.attack], best.accuracy[group.attack])
    return None if difference is None or difference.sign < 0 else (alone[0], difference)


def _without_teacher(group: ModelGroup, taught: Sequence[ReportedModel]) -> list[str]:
    rival = rival_without_teacher(group, taught[0]) if taught else None
    if rival is None:
        return []
    one, difference = rival
    how = "more robust than" if difference.sign else "not distinguishable from"
    points = f"{signed(difference.value)} points, 95 %: {signed(difference.low)} to {signed(difference.high)}"
    return [
        f"{one.name} had no teacher and is {how} {taught[0].name} ({points}): robustness like this can come from "
        "training alone."
    ]


def _attack(group: ModelGroup) -> list[str]:
    attack = group.attack
    if attack is None:
        return []
    versions = sorted({one.version for member in group.members for one in member.evaluations if one.version})
    doubted = [one.name for one in group.members if any(any(found.notes.values()) for found in one.evaluations)]
    notes = [f"AutoAttack itself has doubts about {listed(doubted)}; see the findings."] if doubted else []
    if attack == "autoattack":
        return [f"Robust accuracy is AutoAttack's{f', version {listed(versions)}' if versions else ''}.", *notes]
    return [
        f"Robust accuracy is {attack_name(attack)}'s alone. A stronger attack can only find more, so true robustness "
        "is at most this; AutoAttack was not run on teacher and students both."
    ]


def _images(differences: Sequence[AccuracyDifference]) -> list[str]:
    if not differences:
        return []
    counts = sorted({min(difference.first.images, difference.second.images) for difference in differences})
    widest = max(difference.high - difference.low for difference in differences) / 2
    images = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
    sentences = [f"Differences rest on {images} images and are known to about ± {100 * widest:.0f} points or better."]
    if unpaired := sum(not difference.paired for difference in differences):
        sentences.append(
            f"{unpaired} of {len(differences)} differences are not of the same images, so their intervals are wider."
        )
    if any(difference.assumed for difference in differences):
        sentences.append("Some files do not name their images: the same number of one data set was taken for the same.")
    return sentences


def _choice(taught: Sequence[ReportedModel]) -> list[str]:
    if len(taught) < 3:
        return []
    return [
        f"The most robust of {len(taught)} students was picked by these same images, which favours it; judge it "
        "anew on others before building on it."
    ]


def _seeds(group: ModelGroup) -> list[str]:
    ran = [one.run for one in group.students if one.run]
    if not ran:
        return ["Intervals are over test images; they do not cover what another seed of training would give."]
    recipes = Counter(str({**run.recipe, "training": fields(run.recipe.get("training")) | {"seed": 0}}) for run in ran)
    if max(recipes.values()) > 1:
        return ["Intervals are over test images; compare the runs of one method for what another seed gives."]
    return ["Each method is here with one seed: intervals are over test images, not over what other seeds would give."]
