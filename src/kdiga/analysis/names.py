"""Short names for models that were given as paths."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def short_names(models: Sequence[str]) -> list[str]:
    """Return for each model the shortest ending of its path that no other shares; one given twice is numbered.

    >>> short_names(["runs/teachers/robust", "runs/kd/seed-0", "runs/tangent/seed-0", "runs/kd/seed-0"])
    ['robust', 'kd/seed-0', 'tangent/seed-0', 'kd/seed-0 (2)']
    """
    parts = [Path(model).parts or (model,) for model in models]
    names = list[str]()
    for place, own in enumerate(parts):
        others = [other for other in parts if other != own]
        length = next(
            (count for count in range(1, len(own)) if all(other[-count:] != own[-count:] for other in others)), len(own)
        )
        name, before = "/".join(own[-length:]), sum(other == own for other in parts[:place])
        names.append(f"{name} ({before + 1})" if before else name)
    return names
