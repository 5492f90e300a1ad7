"""What the numbers say, in sentences computed from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def verdict(models: Sequence[Mapping[str, Any]], attack: str = "autoattack") -> list[str]:
    """Return one sentence a student, most robust first: how much of the teacher's robustness it has.

    Args:
        models: entries of ``results.json``, the teacher first.
        attack: which accuracy counts as robust.
    """
    teacher, *students = models
    sentences = [
        f"The teacher withstands {attack_name(attack)} on {teacher[attack]:.1%} of the test images "
        f"({teacher['clean']:.1%} clean, {teacher['parameters']:,} parameters)."
    ]
    for student in sorted(students, key=lambda entry: -entry[attack]):
        points = 100 * (student[attack] - teacher[attack])
        clean = 100 * (student["clean"] - teacher["clean"])
        sentences.append(
            f"{student['name']}: {student[attack]:.1%} robust, {points:+.1f} points against the teacher, "
            f"{clean:+.1f} points clean, with {teacher['parameters'] / student['parameters']:.0f} times fewer "
            "parameters."
        )
    return sentences


def attack_name(attack: str) -> str:
    """Return an attack's name as it is written in text.

    >>> [attack_name(name) for name in ("autoattack", "pgd-40x5", "cw-20")]
    ['AutoAttack', 'PGD-40x5', 'CW-20']
    """
    known = {"autoattack": "AutoAttack", "clean": "clean", "fgsm": "FGSM"}
    kind, dash, steps = attack.partition("-")
    return known.get(attack, f"{kind.upper()}{dash}{steps}")
