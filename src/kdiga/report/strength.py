"""Which of the attacks that were run is the one to go by."""

from __future__ import annotations

import re
from collections.abc import Iterable


def strength(attack: str) -> tuple[int, int]:
    """Return a rank that grows with how much an attack finds: FGSM, iterated attacks by their steps, AutoAttack."""
    if attack == "clean":
        return -1, 0
    steps = re.search(r"-(\d+)", attack)
    kind = 3 if attack.startswith("autoattack") else 2 if attack.startswith(("pgd", "cw", "apgd")) else 1
    return kind, int(steps.group(1)) if steps else 0


def strongest(attacks: Iterable[str]) -> str | None:
    """Return the strongest attack; None where only clean images were judged."""
    found = sorted((attack for attack in attacks if attack != "clean"), key=lambda attack: (strength(attack), attack))
    return found[-1] if found else None
