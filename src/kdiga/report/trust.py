"""How far a chapter's numbers can be believed, in sentences computed from how they were measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from kdiga.report.chapters import Chapter, Member
from kdiga.report.checking import fields
from kdiga.report.comparing import Difference
from kdiga.report.headers import names
from kdiga.report.verdict import attack_name


def trust(chapter: Chapter, gaps: Sequence[Difference], taught: Sequence[Member]) -> list[str]:
    """Return what speaks for and against the numbers.

    Args:
        chapter: whose numbers.
        gaps: the differences that its verdict rests on.
        taught: students among which the best was looked for.
    """
    return [*_checks(chapter), *_attack(chapter), *_images(gaps), *_choice(taught), *_seeds(chapter)]


def _checks(chapter: Chapter) -> list[str]:
    sentences: list[str] = []
    unchecked = [one.name for one in chapter.members if one.accuracy and not one.findings]
    for member in chapter.members:
        verdicts = Counter(finding.verdict for finding in member.findings)
        failed = [finding.name for finding in member.findings if finding.verdict == "failed"]
        warned = [finding.name for finding in member.findings if finding.verdict == "warning"]
        if failed:
            sentences.append(f"{member.name} failed {len(failed)} of {len(member.findings)} checks: {names(failed)}.")
        if warned:
            sentences.append(f"{member.name} has warnings: {names(warned)}.")
        if verdicts["passed"] and not failed and not warned:
            skipped = f", {verdicts['skipped']} not made" if verdicts["skipped"] else ""
            sentences.append(f"{member.name} passed {verdicts['passed']} checks{skipped}.")
    if unchecked:
        some = "no model" if len(unchecked) == len(chapter.members) else f"none of {names(unchecked[:4])}"
        rest = f" and {len(unchecked) - 4} more" if some != "no model" and len(unchecked) > 4 else ""
        sentences.append(
            f"For {some}{rest} was it checked whether gradients are masked; attacks may be fooled by that."
        )
    return sentences


def _attack(chapter: Chapter) -> list[str]:
    attack = chapter.attack
    if attack is None:
        return []
    versions = sorted({one.version for member in chapter.members for one in member.evaluations if one.version})
    doubted = [one.name for one in chapter.members if any(any(found.notes.values()) for found in one.evaluations)]
    notes = [f"AutoAttack itself has doubts about {names(doubted)}; see the findings."] if doubted else []
    if attack == "autoattack":
        return [f"Robust accuracy is AutoAttack's{f', version {names(versions)}' if versions else ''}.", *notes]
    return [
        f"Robust accuracy is {attack_name(attack)}'s alone. A stronger attack can only find more, so true robustness "
        "is at most this; AutoAttack was not run on teacher and students both."
    ]


def _images(gaps: Sequence[Difference]) -> list[str]:
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


def _choice(taught: Sequence[Member]) -> list[str]:
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
    return [
        "Each method was trained once: intervals are over test images and do not cover what another seed would give."
    ]


def _without_seed(recipe: Mapping[str, Any]) -> dict[str, Any]:
    training = {key: value for key, value in fields(recipe.get("training")).items() if key != "seed"}
    return {**recipe, "training": training}
