"""How things are called in text."""

from __future__ import annotations

TRANSFER = "transfer "  # begins the name of an attack that was made on another model


def attack_name(attack: str) -> str:
    """Return an attack's name as it is written in text.

    >>> [attack_name(name) for name in ("autoattack", "pgd-40x5", "cw-20", "transfer pgd-40", "square-5000")]
    ['AutoAttack', 'PGD-40x5', 'CW-20', 'PGD-40 transferred', 'Square-5000']
    """
    if attack.startswith(TRANSFER):
        return f"{attack_name(attack.removeprefix(TRANSFER))} transferred"
    known = {"autoattack": "AutoAttack", "clean": "clean", "fgsm": "FGSM", "worst": "worst"}
    kind, dash, steps = attack.partition("-")
    if kind == "square":
        return f"Square{dash}{steps}"
    return known.get(attack, f"{kind.upper()}{dash}{steps}")
