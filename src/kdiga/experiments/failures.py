"""How a set of runs can end other than well; none of them loses what is finished."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kdiga.errors import KdigaError


class CellsFailedError(KdigaError, RuntimeError):
    """Some cells could not be run, for other reasons than divergence, which is a result."""

    exit_status = 1


def check_none_failed(failed: Sequence[str], what: str, out: Path) -> None:
    """Check that every run came to an end.

    Args:
        failed: folders of those that did not.
        what: they are called: "cell", "run", "trial".
        out: folder of all.

    Raises:
        CellsFailedError: naming them.
    """
    if failed:
        raise CellsFailedError(
            f"{len(failed)} {what}s failed: {', '.join(failed)}; {out}/{what.upper()}/failure.json says why. The same "
            "command tries them again."
        )


class WorkersEndedError(KdigaError, RuntimeError):
    """Every worker process ended before the cells did."""

    exit_status = 1


class StoppedError(KdigaError):
    """The user stopped it."""

    exit_status = 130
