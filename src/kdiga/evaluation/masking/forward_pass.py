"""What attacks assume of a forward pass: fixed logits, one image at a time, that depend on the image."""

from __future__ import annotations

import torch
from torch import Tensor

from kdiga.checks import are_probabilities
from kdiga.evaluation.masking.check_context import CheckContext
from kdiga.evaluation.masking.finding import Finding, Verdict

PASSES = 5
SINGLE_IMAGES = 10  # images that are also passed one by one
GROSS = 30  # times rounding: more than another order of summation or TF32 explains
LISTED = 3  # names of submodules in a message
TWICE = 2  # two outputs of a randomised model may differ by its own gap at any time


def deterministic(context: CheckContext) -> Finding:
    """Pass the same images five times; a randomised model needs attacks that average over it (Athalye et al., 2018)."""
    gap, rounding = _own_gap(context), _rounding(context, _logits(context, context.given_images[:1]))
    evidence = {"largest_gap": gap, "passes": PASSES, "rounding": rounding}
    message = f"over {PASSES} passes the logits of an image differ by at most {gap:.2g} of their size"
    if gap <= rounding:
        return Finding("deterministic", "passed", f"{message}.", evidence)
    message += ": the model is randomised; use AutoAttack's version rand, or average over its randomness."
    return Finding("deterministic", "failed", message, evidence)


def eval_mode(context: CheckContext) -> Finding:
    """Compare the initial modes with eval mode; failed if they change the logits, otherwise a warning."""
    training, logits = context.training, context.initial_logits
    if not training:
        return Finding("eval-mode", "passed", "every submodule was in eval mode.", {"training": 0})
    gap = None if logits is None else _gap(logits, _logits(context, context.given_images))
    changed = gap is None or logits is None or gap > max(_rounding(context, logits), TWICE * _own_gap(context))
    names = ", ".join(training[:LISTED]) + (", ..." if len(training) > LISTED else "")
    effect = "an error" if gap is None else f"logits that differ by up to {gap:.2g} of their size"
    subject = "submodules were" if len(training) > 1 else "submodule was"
    message = (
        f"{len(training)} {subject} in train mode ({names}), which gives {effect}; the checks ran in eval mode. Call "
        "model.eval() first."
    )
    evidence = {"training": len(training), "largest_gap": gap}
    return Finding("eval-mode", "failed" if changed else "warning", message, evidence)


def batch_independent(context: CheckContext) -> Finding:
    """Pass images one by one and together; their logits must be equal up to rounding."""
    count = len(context.given_images)
    if count == 1:
        return Finding("batch-independent", "skipped", "only one image was given; a batch needs two.", {})
    if _own_gap(context) > _rounding(context, _logits(context, context.given_images[:1])):
        message = "the model is randomised, so its logits differ from pass to pass."
        return Finding("batch-independent", "skipped", message, {})
    images = context.given_images[:SINGLE_IMAGES]
    together = _logits(context, context.given_images)[: len(images)]
    single = torch.cat([_logits(context, image[None]) for image in images])
    gap, rounding = _gap(together, single), _rounding(context, together)
    evidence = {"largest_gap": gap, "images": len(images), "rounding": rounding}
    message = f"logits of an image alone and in a batch of {count} differ by at most {gap:.2g} of their size"
    verdict: Verdict = "passed" if gap <= rounding else "warning" if gap <= min(GROSS * rounding, 0.3) else "failed"
    reason = "" if verdict == "passed" else ": the logits of an image depend on the others in its batch"
    return Finding("batch-independent", verdict, f"{message}{reason}.", evidence)


def uses_input(context: CheckContext) -> Finding:
    """Compare the logits of different images."""
    images = context.given_images
    if len(images) == 1 or bool((images == images[:1]).all()):
        return Finding("uses-input", "skipped", "only one distinct image was given; the check needs two.", {})
    logits = _logits(context, images)
    spread, classes = _gap(logits, logits[:1].expand_as(logits)), len(logits.argmax(1).unique())
    evidence = {"largest_gap": spread, "predicted_classes": classes, "images": len(logits)}
    if spread <= _rounding(context, logits):
        message = f"the logits of {len(logits)} images are equal up to rounding: the model ignores its input."
        return Finding("uses-input", "failed", message, evidence)
    if classes == 1 and len(context.given_labels.unique()) > 1:
        message = f"the model predicts one class for all {len(logits)} images, though their logits differ."
        return Finding("uses-input", "warning", message, evidence)
    message = f"the model predicts {classes} classes on {len(logits)} images."
    return Finding("uses-input", "passed", message, evidence)


def returns_logits(context: CheckContext) -> Finding:
    """Test whether the model returns a probability distribution, as AutoAttack's own check does."""
    logits = _logits(context, context.given_images)
    low, high, gap = float(logits.min()), float(logits.max()), float((logits.sum(1) - 1).abs().max())
    evidence = {"lowest": low, "highest": high, "largest_gap_of_sum_to_1": gap}
    if are_probabilities(logits):
        message = (
            "the model returns probabilities instead of logits; a second softmax in the loss shrinks the gradient."
        )
        return Finding("logits", "warning", message, evidence)
    return Finding("logits", "passed", "the model returns logits, not probabilities.", evidence)


@torch.no_grad()
def _logits(context: CheckContext, images: Tensor) -> Tensor:
    return context.model(images)


def _own_gap(context: CheckContext) -> float:
    """Return the largest gap between the first and later logits of the same images."""
    first = _logits(context, context.given_images)
    return max(_gap(first, _logits(context, context.given_images)) for _ in range(PASSES - 1))


def _gap(logits: Tensor, others: Tensor) -> float:
    """Return the largest distance between two logits of an image, in units of the median length of the logits."""
    logits, others = logits.double(), others.double()
    size = logits.norm(dim=1).median().clamp_min(torch.finfo(logits.dtype).tiny)
    return min(float((logits - others).norm(dim=1).max() / size), 1e6)


def _rounding(context: CheckContext, logits: Tensor) -> float:
    """Return the relative difference of logits that rounding may cause: half of the digits."""
    return context.model.resolution(logits) ** 0.5
