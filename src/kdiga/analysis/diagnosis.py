"""What about an explanation's own numbers should be known before they are believed."""

from __future__ import annotations

from kdiga.analysis.explanation import Explained, Explanation
from kdiga.evaluation.masking.finding import Finding, Verdict
from kdiga.results.attack_names import attack_name

MANY_ZEROS = 0.05  # share of examples without a gradient from which on means over the rest are suspect


def diagnose(explanation: Explanation) -> list[Finding]:
    """Return whether gradients are there, the teacher has robustness to pass on, and the arithmetic is sound."""
    models = [explanation.teacher, *explanation.students]
    return [*(zero_gradients(model) for model in models), _teacher(explanation), _arithmetic(explanation)]


def zero_gradients(model: Explained) -> Finding:
    """Return on how many examples a model has no input gradient at all.

    Failed where it has none on any: it ignores its input, cannot be differentiated or is saturated everywhere.
    """
    zeros, examples = model.zero_gradients, len(model.gradient_norm)
    evidence = {"model": model.name, "zero": zeros, "examples": examples}
    found = f"{model.name} has an input gradient of exactly zero on {zeros} of {examples} images"
    verdict: Verdict = "passed"
    if zeros == examples:
        verdict = "failed"
        found += ": it ignores its input, cannot be differentiated, or is saturated; its gradients say nothing"
    elif zeros > MANY_ZEROS * examples:
        verdict = "warning"
        found += "; cosines leave these out, and gradient attacks cannot start there"
    return Finding("zero-gradients", verdict, f"{found}.", evidence)


def _teacher(explanation: Explanation) -> Finding:
    right, examples = sum(explanation.teacher.robust), len(explanation.teacher.robust)
    robust = explanation.teacher_is_robust
    message = f"the teacher is right on {right} of {examples} images under {attack_name(explanation.attack)}"
    message += "." if robust else ", which is not above chance: there is no robustness that a student could keep."
    evidence = {"robust": right / examples, "chance": 1 / explanation.num_classes}
    return Finding("teacher-robust", "passed" if robust else "failed", message, evidence)


def _arithmetic(explanation: Explanation) -> Finding:
    bounds = [bound for student in explanation.students for bound in (student.student_bound, student.transfer_bound)]
    violations = sum(bound.violations for bound in bounds if bound is not None)
    message = (
        "no bound is below what was measured; gamma includes the attacked images, so this tests the software alone."
        if violations == 0
        else f"{violations} bounds are below what was measured, which cannot be: do not use these numbers, report them."
    )
    return Finding("bounds-hold", "failed" if violations else "passed", message, {"violations": violations})
