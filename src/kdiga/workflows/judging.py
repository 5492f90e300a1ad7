"""What all commands that judge models share: the model and the test set of a request, and a file of results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kdiga.io.file_lock import file_lock
from kdiga.results.shared import FileModel
from kdiga.runs.work_units import FOLDER, ResultCache
from kdiga.workflows.loaded_model import (
    LoadedModel,
    TestSet,
    check_earlier_result,
    default_folder,
    load_judged_model,
    load_test_set,
    make_folder,
)
from kdiga.workflows.requests import JudgeRequest

Join = Callable[[Mapping[str, Any], Mapping[str, Any]], dict[str, Any]]


def load_with_test_set(
    request: JudgeRequest, model: str, *others: str, role: str = "model"
) -> tuple[LoadedModel, TestSet]:
    """Return the model that a request's weights are for, and the test set of it and of further models.

    Args:
        request: Data, threat model, weights and device.
        model: Name of the model.
        others: Further models, of which a run may say the data and the threat model.
        role: Name of the model in messages.

    Raises:
        InputError: If the data or the model cannot be loaded, or do not fit.
    """
    test_set = load_test_set(
        [model, *others],
        data=request.data,
        root=request.root,
        eps=request.eps,
        norm=request.norm,
        examples=request.examples,
    )
    loaded = load_judged_model(
        model,
        test_set,
        which=request.which,
        weights=request.weights,
        normalization=request.normalization,
        device=request.device,
        role=role,
    )
    return loaded, test_set


def result_folder(request: JudgeRequest, model: str, kind: str, test_set: TestSet) -> Path | None:
    """Return the folder of results: the request's, else one in the run folder; None for a model without a run."""
    return request.out or default_folder(model, kind, test_set, request.which)


class ResultFolder:
    """A folder with a JSON file of results and finished work units.

    Later calls with the same question add to the file; other results are not replaced by accident.

    Args:
        folder: The folder; it is created. None stores nothing.
        name: Name of the file.
        kind: Class of its content.
        identity: Plain data; results with equal values here answer the same question.
        overwrite: Whether other results may be replaced.

    Raises:
        InputError: If the folder holds other results, or cannot be written.
    """

    def __init__(
        self,
        folder: Path | None,
        name: str,
        kind: type[FileModel],
        identity: Mapping[str, Any],
        *,
        overwrite: bool,
    ) -> None:
        self.folder, self.name, self.kind, self.identity, self.overwrite = folder, name, kind, identity, overwrite
        self.work_units = None if folder is None else folder / FOLDER
        self.earlier: Mapping[str, Any] = {} if folder is None else self._read(folder)
        if folder is not None:
            make_folder(folder)

    @property
    def cache(self) -> ResultCache:
        """Finished work units; without a folder they are in memory alone."""
        return ResultCache(self.work_units)

    def write(self, content: dict[str, Any], join: Join | None = None) -> dict[str, Any]:
        """Write results and return them.

        Args:
            content: Plain data.
            join: Function from the earlier and the new results to what is written. Default: the new results alone.
        """
        if self.folder is None or self.work_units is None:
            return content
        with file_lock(self.work_units, self.name, wait=True):  # another call may have ended in the meantime
            if join is not None:
                content = join(self._read(self.folder), content)
            self.kind.model_validate(content).write(self.folder / self.name)
        return content

    def _read(self, folder: Path) -> dict[str, Any]:
        return check_earlier_result(folder / self.name, self.identity, overwrite=self.overwrite)
