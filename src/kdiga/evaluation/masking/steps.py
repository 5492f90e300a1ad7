"""More steps must not fool fewer examples, and the last ones must not matter any more."""

from __future__ import annotations

from itertools import pairwise

from kdiga.evaluation.masking.ascent import STEPS, Ascent
from kdiga.evaluation.masking.finding import Finding
from kdiga.evaluation.masking.probe import Probe
from kdiga.evaluation.masking.significance import LEVEL, TOLERATED, one_sided

PAIRS = (*pairwise(STEPS), (STEPS[0], STEPS[-1]))


def more_steps(probe: Probe) -> Finding:
    """Compare PGD of 1, 10, 40 and 100 steps on the cross-entropy, example by example.

    Failed if more steps leave significantly more standing (exact McNemar, p < 0.01 over all pairs of step numbers)
    and more than 2 % more; a warning if 100 steps still lower the accuracy of 40 by more than 2 %: the attack has not
    converged. One step that beats many is the first sign of Athalye et al. (2018, section 3.1).
    """
    fooled = {steps: Ascent("ce", steps, probe.threat.eps).fooled(probe) for steps in STEPS}
    total = len(probe.labels)
    counts = [int(found.sum()) for found in fooled.values()]
    accuracy = [1 - count / total for count in counts]
    rises = list[dict[str, float]]()
    for fewer, more in PAIRS:
        lost = int((fooled[fewer] & ~fooled[more]).sum())
        won = int((fooled[more] & ~fooled[fewer]).sum())
        if lost - won > TOLERATED * total and one_sided(lost, won) < LEVEL / len(PAIRS):
            rises.append({"fewer": fewer, "more": more, "only_fewer": lost, "only_more": won})
    evidence = {"steps": list(STEPS), "accuracy": accuracy, "examples": total, "rises": rises}
    listed = ", ".join(f"{share:.0%}" for share in accuracy)
    measured = f"with {', '.join(map(str, STEPS))} steps PGD leaves {listed} of {total} examples"
    if rises:
        worst = max(rises, key=lambda rise: rise["only_fewer"] - rise["only_more"])
        count = "one step fools" if worst["fewer"] == 1 else f"{worst['fewer']} steps fool"
        return Finding(
            "more-steps",
            "failed",
            f"{measured}: {count} {worst['only_fewer']} that {worst['more']} do not, so the "
            "gradient does not lead where the loss is high.",
            evidence,
        )
    if counts[-1] - counts[-2] > TOLERATED * total:
        return Finding(
            "more-steps", "warning", f"{measured}: it has not converged; use {2 * STEPS[-1]} steps or more.", evidence
        )
    return Finding("more-steps", "passed", f"{measured}.", evidence)
