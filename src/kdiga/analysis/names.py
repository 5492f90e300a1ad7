"""Short names for models that were given as paths."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

SAYS_LITTLE = re.compile(r"seed-\d+|(best|last)\.safetensors")


def short_model_names(models: Sequence[str]) -> list[str]:
    """Return for each model the shortest ending of its path that no other shares; one given twice is numbered.

    A part that names only a seed or a run's weights does not begin a name: what stands before it does.

    >>> short_names(["runs/teachers/robust", "runs/kd/seed-0", "runs/tangent/seed-0", "runs/kd/seed-0"])
    ['robust', 'kd/seed-0', 'tangent/seed-0', 'kd/seed-0 (2)']
    """
    parts = [Path(model).parts or (model,) for model in models]
    names = list[str]()
    for place, own in enumerate(parts):
        others = [other for other in parts if other != own]
        length = next((count for count in range(1, len(own)) if _tells(own[-count:], others)), len(own))
        name, before = "/".join(own[-length:]), sum(other == own for other in parts[:place])
        names.append(f"{name} ({before + 1})" if before else name)
    return names


def _tells(ending: tuple[str, ...], others: Sequence[tuple[str, ...]]) -> bool:
    return not SAYS_LITTLE.fullmatch(ending[0]) and all(other[-len(ending) :] != ending for other in others)
