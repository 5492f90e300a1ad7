"""How things are called in text."""

from __future__ import annotations


def attack_name(attack: str) -> str:
    """Return an attack's name as it is written in text.

    >>> [attack_name(name) for name in ("autoattack", "pgd-40x5", "cw-20")]
    ['AutoAttack', 'PGD-40x5', 'CW-20']
    """
    known = {"autoattack": "AutoAttack", "clean": "clean", "fgsm": "FGSM"}
    kind, dash, steps = attack.partition("-")
    return known.get(attack, f"{kind.upper()}{dash}{steps}")
