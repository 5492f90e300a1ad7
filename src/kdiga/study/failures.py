"""How a set of runs can end other than well; none of them loses what is finished."""

from __future__ import annotations

from kdiga.errors import KdigaError


class CellsFailedError(KdigaError, RuntimeError):
    """Some cells could not be run, for other reasons than divergence, which is a result."""

    exit_status = 1


class WorkersEndedError(KdigaError, RuntimeError):
    """Every worker process ended before the cells did."""

    exit_status = 1


class StoppedError(KdigaError):
    """The user stopped it."""

    exit_status = 130
