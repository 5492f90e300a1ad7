"""Names of attacks and values of eps in text, and which attack is stronger."""

from __future__ import annotations

import re
from collections.abc import Iterable

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


def strength(attack: str) -> tuple[int, int, int]:
    """Return a rank of an attack by what it finds: FGSM, iterated attacks by steps and restarts, AutoAttack."""
    if attack == "clean":
        return -1, 0, 0
    found = re.search(r"-(\d+)(?:x(\d+))?", attack)
    steps, restarts = (int(found[1]), int(found[2] or 1)) if found else (0, 0)
    kind = 3 if attack.startswith("autoattack") else 2 if attack.startswith(("pgd", "cw", "apgd")) else 1
    return kind, steps, restarts


def strongest(attacks: Iterable[str]) -> str | None:
    """Return the strongest attack; None where only clean images were judged."""
    found = sorted((attack for attack in attacks if attack != "clean"), key=lambda attack: (strength(attack), attack))
    return found[-1] if found else None


def eps_text(eps: float) -> str:
    """Return an eps as its users write it: as a fraction of 255 if it is one and has no short decimal.

    >>> eps_text(8 / 255), eps_text(0.1), eps_text(51 / 255)
    ('8/255', '0.1', '0.2')
    """
    levels = round(255 * eps)
    short = f"{eps:.4g}"
    return f"{levels}/255" if levels and abs(255 * eps - levels) < 1e-6 < 255 * abs(float(short) - eps) else short
