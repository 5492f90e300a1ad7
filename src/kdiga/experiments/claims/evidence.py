"""What the runs left, by method, pair and seed: outcomes of attacks, certificates, explanations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdiga.experiments.board import RunBoard, RunSpec, read_json, test_file
from kdiga.experiments.claims.effects import Effect, effect
from kdiga.experiments.claims.grid import Pair
from kdiga.experiments.claims.measurements import CertifyMeasurement, ExplainMeasurement
from kdiga.experiments.claims.plan import Claims
from kdiga.experiments.settings import COSTLY

Outcomes = list[list[bool]]


class Evidence:
    """Reads the folders of a board.

    Args:
        claims: what is tested.
        board: of its cells.
        available: number of test images.
    """

    def __init__(self, claims: Claims, board: RunBoard, available: int) -> None:
        self.claims, self.board, self.available = claims, board, available

    def run_specs(self, label: str, pair: Pair) -> list[RunSpec]:
        """Return the runs of a method on a pair, seed after seed; a method without a teacher has none of its own."""
        names = [f"{label}/{name}/seed-{seed}" for name in (pair.name, pair.student) for seed in self.claims.seeds]
        return [self.board.by_folder[name] for name in names if name in self.board.by_folder]

    def student(self, label: str, pair: Pair, attack: str = COSTLY) -> Outcomes | None:
        """Return for each seed that has ended whether each image is right under an attack; None while none has.

        A student that diverged is wrong on every image.
        """
        rows = Outcomes()
        for run_spec in self.run_specs(label, pair):
            state = self.board.state(run_spec)
            if state == "diverged":
                rows.append([False] * self.claims.evaluation.examples_of(attack, self.available))
            elif state == "done":
                rows.append(self._outcomes(self.board.out / run_spec.folder, attack))
        return rows or None

    def alone(self, folder: str, attack: str = COSTLY) -> Outcomes | None:
        """Return the same of a teacher or a start, which has no seeds."""
        run_spec = self.board.by_folder[folder]
        return [self._outcomes(self.board.out / folder, attack)] if self.board.state(run_spec) == "done" else None

    def teacher(self, pair: Pair, attack: str = COSTLY) -> Outcomes | None:
        """Return the outcomes of a pair's teacher."""
        return self.alone(f"teachers/{pair.teacher}", attack)

    def asked(self, label: str, pair: Pair, file: str) -> bool:
        """Return whether a file is to be found out of the first seed's student against the pair's teacher.

        A student without a teacher is held against one alone.
        """
        return any(
            isinstance(step, CertifyMeasurement | ExplainMeasurement)
            and (step.file, step.teacher) == (file, f"teachers/{pair.teacher}")
            for run_spec in self.run_specs(label, pair)[:1]
            for step in run_spec.after
        )

    def found(self, label: str, pair: Pair, file: str) -> dict[str, Any] | None:
        """Return what was found out of the first seed's student; None where that is not done, or not asked for."""
        if not self.asked(label, pair, file):
            return None
        run_spec = self.run_specs(label, pair)[0]
        return read_json(self.board.out / run_spec.folder / file) if self.board.state(run_spec) == "done" else None

    def diverged(self, label: str, pair: Pair, seeds: int | None = None) -> int:
        """Return how many seeds diverged, of all or of the first so many."""
        return sum(self.board.state(run_spec) == "diverged" for run_spec in self.run_specs(label, pair)[:seeds])

    def _outcomes(self, folder: Path, attack: str) -> list[bool]:
        report = read_json(test_file(folder, "best"))
        assert report is not None  # a finished cell has one
        return report["correct"][attack]


def held_against(ours: Outcomes | None, theirs: Outcomes | None, share: float = 1.0) -> Effect | None:
    """Return how much two differ, on the images that both have seen; None where one is missing.

    Of two that have seeds, as many as both have count.
    """
    if ours is None or theirs is None:
        return None
    if len(theirs) > 1:
        ours, theirs = ours[: len(theirs)], theirs[: len(ours)]
    images = min(len(row) for row in (*ours, *theirs))
    return effect([row[:images] for row in ours], [row[:images] for row in theirs], share)


def accuracy(outcomes: Sequence[Sequence[bool]] | None) -> float | None:
    """Return the mean over seeds and images."""
    if outcomes is None:
        return None
    return sum(sum(row) for row in outcomes) / sum(len(row) for row in outcomes)


def listed(found: Effect | None) -> list[float] | None:
    """Return an effect as plain data."""
    return None if found is None else found.to_list()
