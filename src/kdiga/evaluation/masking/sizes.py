"""At an eps that lets any image become any other, nothing may stand."""

from __future__ import annotations

import math

from kdiga.evaluation.masking.ascent import Ascent
from kdiga.evaluation.masking.finding import Finding
from kdiga.evaluation.masking.probe import Probe
from kdiga.evaluation.masking.significance import excess, verdict_on

SIZES = 4  # eps values above the threat model's
STEPS = 40


def large_eps(probe: Probe) -> Finding:
    """Attack at eps growing to the whole pixel range: Linf 1, or L2 the diagonal of the cube of images.

    There an image of another class is in the ball, so an example that never falls was missed by the attack. Each size
    attacks, on cross-entropy and on margin, what smaller ones left.
    """
    eps = probe.threat.eps
    whole = 1.0 if probe.threat.norm == "linf" else math.sqrt(probe.images[0].numel())
    sizes = [eps * (whole / eps) ** (place / SIZES) for place in range(SIZES)] + [whole] if eps < whole else [eps]
    total = len(probe.labels)
    curve = list[float]()
    left = ~Ascent("ce", STEPS, eps).fooled(probe) & ~Ascent("margin", STEPS, eps).fooled(probe)
    curve.append(int(left.sum()) / total)
    for size in sizes[1:]:
        for objective in ("ce", "margin"):
            left &= ~Ascent(objective, STEPS, size).fooled(probe, among=left)
        curve.append(int(left.sum()) / total)
    standing = int(left.sum())
    evidence = {"eps": sizes, "accuracy": curve, "standing": standing, "examples": total, "p": excess(standing, total)}
    verdict = verdict_on(standing, total)
    if verdict == "passed":
        message = f"at eps {whole:.3g}, where any image is within reach, {standing} of {total} examples stand."
    else:
        message = (
            f"at eps {whole:.3g}, where an image of another class is within reach, {standing} of {total} examples "
            "still stand: gradient attacks do not find what must be there."
        )
    return Finding("large-eps", verdict, message, evidence)
