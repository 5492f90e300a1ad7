"""What the words on a page mean, one line each: the threat model, the methods and the attacks that occur."""

from __future__ import annotations

from collections.abc import Iterable

from kdiga.results.attack_names import attack_name, eps_text
from kdiga.results.shared import Conditions

INVISIBLE = 8 / 255  # Linf eps up to which a person does not notice the change
METHODS = {
    "ce": "trained on the labels alone, without a teacher.",
    "kd": "plain distillation: the student learns the teacher's outputs on clean images.",
    "kdiga": "plain distillation that also aligns the student's input gradients with the teacher's.",
    "tangent": "distillation that keeps the student's loss below a linear estimate by the teacher, for every change "
    "within eps.",
    "pgd-at": "adversarial training: trained on images that PGD attacks in each step, without a teacher.",
}
ATTACKS = {
    "pgd": "an attack that follows the gradient of the loss for {steps} steps.",
    "cw": "an attack that follows the gradient of the margin between two classes for {steps} steps.",
    "fgsm": "an attack of one step along the gradient of the loss.",
    "autoattack": "a standard set of four attacks; an image counts as right only if it withstands all of them.",
    "clean": "images without an attack.",
}


def threat_in_words(conditions: Conditions) -> str:
    """Return what an attack may do to an image, for a person."""
    eps = eps_text(conditions.eps)
    if conditions.norm != "linf":
        return f"Threat: the changes of all pixels together have an L2 length of at most {eps}; pixels are in [0, 1]."
    seen = ", too little for a person to notice" if conditions.eps <= INVISIBLE + 1e-9 else ""
    return f"Threat: each pixel may change by up to {100 * conditions.eps:.2g} % of its range (eps {eps}){seen}."


def definitions(methods: Iterable[str], attacks: Iterable[str]) -> list[tuple[str, str]]:
    """Return the known ones among some methods and attacks, each with its meaning."""
    found = [(name, METHODS[name]) for name in dict.fromkeys(methods) if name in METHODS]
    for attack in dict.fromkeys(attacks):
        kind, _, steps = attack.partition("-")
        if kind in ATTACKS:
            found.append((attack_name(attack), ATTACKS[kind].format(steps=steps.partition("x")[0])))
    return found
