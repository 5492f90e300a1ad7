"""``run:DIR``: what ``kdiga train`` left in a folder."""

from __future__ import annotations

from pathlib import Path

from kdiga.errors import InputError, unknown
from kdiga.models.foreign import from_file
from kdiga.models.registry import Classifier
from kdiga.models.source import ModelRequest, ModelSource, register_source

WHICH = ("best", "last")


@register_source
class RunSource(ModelSource):
    """A finished run, by its folder."""

    prefix = "run"
    form = "run:DIR"

    def load(self, request: ModelRequest, name: str) -> Classifier:
        """Return its best or last model."""
        if request.weights is not None:
            raise InputError(f"{name!r} is a run, so weights={str(request.weights)!r} has no place; give one.")
        request.refuse("a run knows its own model", "pretrained", "architecture", "matched")
        return from_file(checkpoint_in(Path(name).expanduser(), request.which), request.given)


def checkpoint_in(run: Path, which: str = "best") -> Path:
    """Return the weights of a finished run.

    Raises:
        InputError: if the folder holds no finished run.
    """
    if which not in WHICH:
        raise unknown("which", which, WHICH)
    path = run / f"{which}.safetensors"
    if path.is_file():
        return path
    if not run.is_dir():
        raise InputError(f"run {str(run)!r} does not exist; give the folder that `kdiga train` wrote.")
    if (run / "journal.jsonl").is_file():
        raise InputError(
            f"the run in {str(run)!r} has no {which} weights: it was interrupted or diverged (its journal.jsonl says "
            "which). Continue it with `kdiga train RECIPE --resume`."
        )
    raise InputError(f"{str(run)!r} holds no run; expected {which}.safetensors in it.")
