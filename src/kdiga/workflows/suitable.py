"""``kdiga suitable``: measurements of a teacher before any training, stored in a folder."""

from __future__ import annotations

from pathlib import Path

from kdiga.analysis.suitable import suitable
from kdiga.analysis.worst_case import WorstCaseSearch
from kdiga.results.evaluations import SuitabilityResult
from kdiga.runs.provenance import provenance
from kdiga.runs.work_units import OnProgress
from kdiga.workflows.loaded_model import LoadedModel, TestSet, load_with_test_set, measurements_on, result_folder
from kdiga.workflows.requests import SuitableRequest
from kdiga.workflows.result_folder import Outcome, ResultFolder


def run_suitable(request: SuitableRequest, *, command: str = "", progress: OnProgress | None = None) -> Outcome:
    """Measure a teacher, and write ``suitability.json``, with the command, where there is a folder."""
    loaded, test_set = load_with_test_set(request, request.teacher, role="teacher")
    folder = result_folder(request, request.teacher, "suitability", test_set)
    return judge_teacher(request, loaded, test_set, folder, command=command, progress=progress)


def judge_teacher(
    request: SuitableRequest,
    loaded: LoadedModel,
    test_set: TestSet,
    folder: Path | None,
    *,
    command: str,
    progress: OnProgress | None,
) -> Outcome:
    """Measure a loaded teacher."""
    search = WorstCaseSearch(restarts=request.restarts)
    about = {"kind": "suitability", **test_set.about(), "seed": request.seed, "search": search.to_dict()}
    identity = about | {"fingerprint": loaded.about["fingerprint"]}
    results = ResultFolder(folder, SuitabilityResult, identity, overwrite=request.overwrite)
    found = suitable(measurements_on(test_set, search, request.seed, results.cache, progress), loaded.model)
    content = identity | {"command": command} | loaded.about | found.to_dict()
    content["provenance"] = provenance(loaded.device)
    return results.write(content)
