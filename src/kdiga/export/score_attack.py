"""The official Square attack on a file that only answers with logits: it needs no gradients, as a phone gives none."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from kdiga.evaluation import AttackResult
from kdiga.evaluation.attacks import Attack
from kdiga.evaluation.autoattack import OFFICIAL_NORM
from kdiga.evaluation.chunks import Target, attack_all
from kdiga.evaluation.outcome import StageOutcome
from kdiga.export.formats import Logits
from kdiga.export.transfer import Victim
from kdiga.model_state import seeded
from kdiga.runs.work_units import OnProgress, ResultCache
from kdiga.types import ThreatModel

QUERIES = 5000  # as in AutoAttack


@dataclass(frozen=True)
class SquareStage:
    """Square (Andriushchenko et al., 2020) by its official code: random squares kept where the margin falls.

    Args:
        queries: of an example that is never fooled.
    """

    queries: int = QUERIES

    @property
    def name(self) -> str:
        """What it is called in results."""
        return f"square-{self.queries}"

    @property
    def forwards(self) -> int:
        """Forward passes of an example that is never fooled."""
        return self.queries

    @property
    def backwards(self) -> int:
        """None: it sees scores alone."""
        return 0

    def key(self) -> dict[str, Any]:
        """Return the settings as plain data."""
        return {"stage": "square", "queries": self.queries}

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, threat: ThreatModel, seed: int
    ) -> StageOutcome:
        """Return which examples are still right; see :class:`kdiga.evaluation.attacks.Stage`."""
        from pyautoattack.square import SquareAttack

        build: Any = SquareAttack
        with seeded(seed), torch.no_grad():
            official = build(
                model,
                norm=OFFICIAL_NORM[threat.norm],
                eps=threat.eps,
                n_queries=self.queries,
                seed=seed,
                device=images.device,
            )
            adv_images = official.perturb(images.contiguous(), labels)
            return StageOutcome((model(adv_images).argmax(1) == labels).cpu())


class Called(nn.Module):
    """A file's function as a module, for attacks that ask nothing of it but logits."""

    def __init__(self, call: Logits) -> None:
        super().__init__()
        self.call = call

    def forward(self, images: Tensor) -> Tensor:
        """Return logits."""
        # A copy: Square writes into what it is given, and a runtime may hand out its own memory.
        return self.call(images).clone()


def scored(
    victim: Victim,
    images: Tensor,
    labels: Tensor,
    *,
    threat: ThreatModel,
    queries: int = QUERIES,
    seed: int = 0,
    batch_size: int = 100,
    result_cache: ResultCache | None = None,
    on_progress: OnProgress | None = None,
) -> AttackResult:
    """Attack a file by its logits alone.

    Args:
        victim: the file.
        images: float (example, channel, height, width) in [0, 1].
        labels: int64 (example,).
        threat: the ball to stay in.
        queries: of an example that is never fooled, at least 1.
        seed: of the squares.
        batch_size: images attacked, and kept, together.
        result_cache: where outcomes are kept; None keeps none.
        on_progress: told what is attacked, examples done and examples in all.
    """
    target = Target.of(Called(victim.call).eval(), images, labels, batch_size, keyed=False)
    target = replace(target, fingerprint=victim.digest)
    stage = SquareStage(queries)

    def tell(attack: str, done: int, total: int) -> None:
        if on_progress is not None:
            on_progress(f"{attack} on {victim.name}", done, total)

    return attack_all(
        target,
        Attack(stage.name, [stage]),
        threat=threat,
        seed=seed,
        batch_size=batch_size,
        result_cache=result_cache or ResultCache(),
        progress=tell,
    )
