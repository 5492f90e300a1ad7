"""What attacks take for granted of a model: fixed answers, one image at a time, that depend on the image."""

from __future__ import annotations

import torch
from torch import Tensor

from kdiga.evaluation.masking.finding import Finding, Verdict
from kdiga.evaluation.masking.probe import Probe

PASSES = 5
ALONE = 10  # images that are also shown on their own
GROSS = 30  # times rounding: beyond what another order of summation or TF32 explains
PROBABILITY = 1e-5  # AutoAttack's tolerance
NAMED = 3
TWICE = 2  # a randomised model's own gap: what two of its answers may differ by at any time


def deterministic(probe: Probe) -> Finding:
    """Show the same images five times; a randomised model needs attacks that average over it (Athalye et al., 2018)."""
    gap, rounding = _own_gap(probe), _rounding(_answers(probe, probe.shown[:1]))
    evidence = {"largest_gap": gap, "passes": PASSES, "rounding": rounding}
    numbers = f"over {PASSES} passes the logits of an image differ by at most {gap:.2g} of their size"
    if gap > rounding:
        message = f"{numbers}: the model is randomised; use AutoAttack's version rand, or average over its randomness."
        return Finding("deterministic", "failed", message, evidence)
    return Finding("deterministic", "passed", f"{numbers}.", evidence)


def eval_mode(probe: Probe) -> Finding:
    """Look at the modes the model came in; failed if they change its answers, a warning if they do not."""
    training, logits = probe.handed_in.training, probe.handed_in.logits
    if not training:
        return Finding("eval-mode", "passed", "every submodule came in eval mode.", {"training": 0})
    gap = None if logits is None else _gap(logits, _answers(probe, probe.shown))
    changed = gap is None or logits is None or gap > max(_rounding(logits), TWICE * _own_gap(probe))
    named = ", ".join(training[:NAMED]) + (", ..." if len(training) > NAMED else "")
    size = "no answer at all" if gap is None else f"logits that differ by up to {gap:.2g} of their size"
    many = "submodules" if len(training) > 1 else "submodule"
    message = (
        f"{len(training)} {many} came in train mode ({named}), which gives {size}; "
        "the checks ran in eval mode. Call model.eval() first."
    )
    return Finding(
        "eval-mode", "failed" if changed else "warning", message, {"training": len(training), "largest_gap": gap}
    )


def batch_independent(probe: Probe) -> Finding:
    """Show images alone and together; their logits must be the same up to rounding."""
    if len(probe.shown) == 1:
        return Finding("batch-independent", "skipped", "there is one image only; a batch needs two.", {})
    if _own_gap(probe) > _rounding(_answers(probe, probe.shown[:1])):
        return Finding("batch-independent", "skipped", "the model is randomised; no two of its answers agree.", {})
    images = probe.shown[:ALONE]
    together = _answers(probe, probe.shown)[: len(images)]
    alone = torch.cat([_answers(probe, image[None]) for image in images])
    gap, rounding = _gap(together, alone), _rounding(together)
    evidence = {"largest_gap": gap, "images": len(images), "rounding": rounding}
    numbers = f"logits of an image alone and in a batch of {len(probe.shown)} differ by at most {gap:.2g} of their size"
    verdict: Verdict = "passed" if gap <= rounding else "warning" if gap <= min(GROSS * rounding, 0.3) else "failed"
    reason = "" if verdict == "passed" else ": an image's answer depends on the others in its batch"
    return Finding("batch-independent", verdict, f"{numbers}{reason}.", evidence)


def uses_input(probe: Probe) -> Finding:
    """Compare the answers to different images."""
    if len(probe.shown) == 1 or bool((probe.shown == probe.shown[:1]).all()):
        return Finding("uses-input", "skipped", "there is one image only; answers need two to differ.", {})
    logits = _answers(probe, probe.shown)
    spread, classes = _gap(logits, logits[:1].expand_as(logits)), len(logits.argmax(1).unique())
    evidence = {"largest_gap": spread, "predicted_classes": classes, "images": len(logits)}
    if spread <= _rounding(logits):
        message = f"the logits of {len(logits)} images are equal up to rounding: the model ignores its input."
        return Finding("uses-input", "failed", message, evidence)
    if classes == 1 and len(probe.shown_labels.unique()) > 1:
        message = f"all {len(logits)} images get the same class, though their logits differ."
        return Finding("uses-input", "warning", message, evidence)
    return Finding("uses-input", "passed", f"{len(logits)} images get {classes} classes.", evidence)


def logits_not_shares(probe: Probe) -> Finding:
    """Look whether the model returns a probability distribution, as AutoAttack's own check does."""
    logits = _answers(probe, probe.shown)
    inside = float(logits.min()) > -PROBABILITY and float(logits.max()) < 1 + PROBABILITY
    off = float((logits.sum(1) - 1).abs().max())
    evidence = {"lowest": float(logits.min()), "highest": float(logits.max()), "largest_gap_of_sum_to_1": off}
    if inside and off < PROBABILITY:
        message = "the model returns probabilities, not logits; a loss on them takes the softmax twice and fades."
        return Finding("logits", "warning", message, evidence)
    return Finding("logits", "passed", "the model returns logits, not probabilities.", evidence)


@torch.no_grad()
def _answers(probe: Probe, images: Tensor) -> Tensor:
    return probe.model(images)


def _own_gap(probe: Probe) -> float:
    """Return the largest gap between the first and later answers to the same images."""
    first = _answers(probe, probe.shown)
    return max(_gap(first, _answers(probe, probe.shown)) for _ in range(PASSES - 1))


def _gap(logits: Tensor, others: Tensor) -> float:
    """Return the largest distance of two answers to an image, in units of the median length of an answer."""
    logits, others = logits.double(), others.double()
    size = logits.norm(dim=1).median().clamp_min(torch.finfo(logits.dtype).tiny)
    return min(float((logits - others).norm(dim=1).max() / size), 1e6)


def _rounding(like: Tensor) -> float:
    """Return the relative difference that rounding may make: half of the digits."""
    return torch.finfo(like.dtype).eps ** 0.5
