"""``robustbench:DATASET/THREAT/NAME``: the robust models of RobustBench's leaderboards (Croce et al., 2021).

They take pixels in [0, 1] and normalise inside if they normalise at all, so they get no layer in front.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import os
import sys
import warnings
from collections.abc import Generator, Iterable
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from torch import nn

from kdiga.errors import InputError, check_known
from kdiga.models.checkpoint import load_weights, read_checkpoint, why_refused
from kdiga.models.classifier import Classifier, ModelSpec, WeightsOrigin
from kdiga.models.foreign import NORMALIZERS, tidied
from kdiga.models.registry import ModelSource, SourceRequest, missing_package, register_source, unknown_name

SHAPES = {"cifar10": (10, 32), "cifar100": (100, 32), "imagenet": (1000, 224)}  # classes, image size
THREATS = ("Linf", "L2", "corruptions")


@register_source
class RobustBench(ModelSource):
    """A model of a leaderboard, by data set, threat model and the name of its paper."""

    prefix = "robustbench"
    form = "robustbench:DATASET/THREAT/NAME"
    extra = "robustbench"

    def load(self, request: SourceRequest, name: str) -> Classifier:
        """Return the model with weights that RobustBench fetches, or those of ``weights``."""
        request.refuse("RobustBench's models know their own", "architecture", "activation", "options", "matched")
        request.refuse("its models take pixels in [0, 1] and normalise inside", "normalization")
        entry = self._entry(name)
        classes, size = SHAPES[name.partition("/")[0]]
        spec = ModelSpec(f"{self.prefix}:{name}", classes, 3, size)
        wrong = spec.contradiction(request.given)
        if wrong is not None:
            raise InputError(f"{spec.name} has {wrong}; leave that out.")
        if request.weights is None:
            origin = WeightsOrigin(f"RobustBench's {name}", trained=True)
            return Classifier(spec, self._fetched(name, entry), origin).eval()
        network = entry["model"]()
        notes = _fill(network, request.weights)
        return Classifier(spec, network, WeightsOrigin(f"file {request.weights}", trained=True, notes=notes)).eval()

    def network(self, spec: ModelSpec) -> nn.Module:
        """Return the architecture of a model, freshly initialised."""
        return self._entry(spec.name)["model"]()

    def names(self) -> Iterable[str]:
        """Return every model's name, or none where the package is missing."""
        try:
            return list(self._entries())
        except InputError:
            return ()

    def _entry(self, name: str) -> dict[str, Any]:
        parts = name.split("/")
        if len(parts) != 3 or not all(parts):
            raise InputError(
                f"robustbench:{name} has not the form {self.form}; for example "
                "robustbench:cifar10/Linf/Rice2020Overfitting."
            )
        dataset, threat, _ = parts
        check_known("data set of RobustBench", dataset, SHAPES)
        check_known("threat model of RobustBench", threat, THREATS)
        entries = self._entries()
        if name not in entries:
            raise unknown_name(self, name)
        return entries[name]

    def _entries(self) -> dict[str, dict[str, Any]]:
        try:
            with _autoattack_by_its_other_name(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it imports from timm's former modules
                importlib.import_module("robustbench.utils")  # what loading needs
                from robustbench.model_zoo import model_dicts  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise missing_package(self, str(error.name or "robustbench").partition(".")[0]) from None
        zoo: dict[Any, Any] = model_dicts
        return {
            f"{dataset.value}/{threat.value}/{name}": entry
            for dataset, threats in zoo.items()
            for threat, models in threats.items()
            for name, entry in models.items()
        }

    def _fetched(self, name: str, entry: dict[str, Any]) -> nn.Module:
        from robustbench.utils import load_model  # pyright: ignore[reportMissingImports]

        folder = weights_folder() / self.prefix
        dataset, threat, model = name.split("/")
        try:
            # It prints its downloads; it loads a state dict, and torch unpickles nothing else.
            with redirect_stdout(io.StringIO()):
                return load_model(model, model_dir=folder, dataset=dataset, threat_model=threat)
        except Exception as error:  # gdown's, requests' and torch's errors share no base
            where = entry.get("gdrive_id")
            place = f"https://drive.google.com/uc?id={where}" if isinstance(where, str) else "RobustBench's model zoo"
            raise InputError(
                f"robustbench:{name} could not be loaded ({why_refused(error)}); download its file by hand from "
                f"{place} and put it at {folder / name}.pt, or give weights: FILE."
            ) from error


@contextmanager
def _autoattack_by_its_other_name() -> Generator[None]:
    """Let RobustBench import ``autoattack``, which PyPI has as ``pyautoattack``, if the former is not installed."""
    names = ("autoattack", "autoattack.state")
    aliased = [] if importlib.util.find_spec("autoattack") else [name for name in names if name not in sys.modules]
    for name in aliased:
        sys.modules[name] = importlib.import_module(f"py{name}")
    try:
        yield
    finally:
        for name in aliased:
            sys.modules.pop(name, None)


def weights_folder() -> Path:
    """Return the folder for fetched weights: ``$KDIGA_WEIGHTS``, else a folder of the user's cache."""
    if environment := os.environ.get("KDIGA_WEIGHTS"):
        return Path(environment).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "kdiga" / "weights"


def _fill(network: nn.Module, path: Path) -> tuple[str, ...]:
    checkpoint = read_checkpoint(path)
    own = network.state_dict()
    found = tidied(checkpoint.state, own)
    # Many of RobustBench's files are older than the buffers of their normalisation; the code has the paper's values.
    constants = {name: own[name] for pair in NORMALIZERS for name in pair if name in own and name not in found.state}
    notes = (f"{', '.join(constants)} of RobustBench's code, which the file lacks",) * bool(constants)
    return (*checkpoint.notes, *found.notes, *notes, *load_weights(network, found.state | constants, path))
