"""Two evaluated models, compared example by example."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdiga.display import Displayed, Summary
from kdiga.errors import InputError, some
from kdiga.report.differences import PairedDifference, compare_evaluations
from kdiga.results.evaluations import EvaluationResult
from kdiga.results.runs import RunResult
from kdiga.results.shared import REPLACED, short_names
from kdiga.runs.run_folder import CONFIG

if TYPE_CHECKING:
    from kdiga.evaluation import Evaluation

FILES = (("evaluation.json",), ("best-test.json", "last-test.json"))  # of `kdiga evaluate`, else of a study
SHOWN = 5  # models that a message names
LAST = " (last)"  # end of the name of a run's last weights


@dataclass(frozen=True, repr=False)
class Comparison(Displayed):
    """The differences of two models under each attack, with paired 95 % intervals."""

    first: str  # name of the first model, with "(last)" for the last weights of a run
    second: str  # name of the second model
    data: str  # data set of the test images
    attacks: Sequence[PairedDifference]  # difference under each attack

    @property
    def names(self) -> tuple[str, str]:
        """Short names of the two models."""
        if not self.first or not self.second:
            return "the first", "the second"
        given = self.first, self.second
        marks = [LAST * name.endswith(LAST) for name in given]
        one, other = short_names([name.removesuffix(LAST) for name in given], marks)
        return one, other

    @property
    def sentences(self) -> list[str]:
        """What the intervals allow to say, a sentence per attack."""
        return [one.sentence(*self.names) for one in self.attacks]

    def to_dict(self) -> dict[str, Any]:
        """Return the names and the differences as plain data."""
        return {"first": self.first, "second": self.second, "attacks": [one.to_dict() for one in self.attacks]}

    def _summary(self) -> Summary:
        rows = list[dict[str, Any]]()
        for one in self.attacks:
            low, high = one.interval
            row = {"attack": one.attack, "first": one.first, "second": one.second, "difference": one.difference}
            only = {"only first right": one.only_first, "only second right": one.only_second}
            rows.append(row | {"low": low, "high": high} | only)
        title = f"first {self.first}, second {self.second}, {self.attacks[0].examples} test images of {self.data}"
        return Summary(title, rows, sentences=self.sentences, bars="difference")


def compare(first: Evaluation | str | Path, second: Evaluation | str | Path) -> Comparison:
    """Compare two models on the same test images, example by example.

    Args:
        first: What :func:`kdiga.evaluate` returned; or the path of what ``kdiga evaluate`` wrote, of its folder, or of
            an evaluated run.
        second: The same of another model.

    Returns:
        The difference of the accuracies under each attack, first less second, with Newcombe's paired 95 % interval.

    Raises:
        InputError: If a path holds no evaluation of its weights or those of several models, or the two differ in
            images, threat model or seed.
    """
    one, other = _pair(first, second)
    first_name, second_name = (found.model + LAST * (found.which == "last") for found in (one, other))
    return Comparison(first_name, second_name, one.data, compare_evaluations(one, other))


def evaluation_result(found: Evaluation) -> EvaluationResult:
    """Return an evaluation as the content of a result file."""
    return EvaluationResult.model_validate({"kind": EvaluationResult.KIND, "data": "images"} | found.to_dict())


def _pair(first: Evaluation | str | Path, second: Evaluation | str | Path) -> tuple[EvaluationResult, EvaluationResult]:
    """Return an evaluation of each; of several, those of best weights, else of last, on the most equal images."""
    ones, others = _evaluations(first), _evaluations(second)
    chosen = _is_evaluation(first) and _is_evaluation(second)
    if len(ones) == len(others) == 1 and (chosen or _is_last(ones[0]) == _is_last(others[0])):
        return ones[0], others[0]
    alike = [(a, b) for a in ones for b in others if a.conditions == b.conditions]
    equal = [(a, b) for a, b in alike if _is_last(a) == _is_last(b)]
    pairs = [pair for pair in equal if not _is_last(pair[0])] or equal
    threats = {pair[0].conditions.key for pair in pairs}
    if len(threats) == 1:
        return max(pairs, key=lambda pair: max(len(right or ()) for right in pair[0].correct.values()))
    same = "of the same weights (best or last) " * bool(alike)
    how = f"pairs under {len(threats)} threat models" if pairs else f"none {same}on the same images"
    raise InputError(
        f"{str(first)!r} and {str(second)!r} hold {len(ones)} and {len(others)} evaluations, {how}; give the folder of "
        "one evaluation of each."
    )


def _is_evaluation(given: Evaluation | str | Path) -> bool:
    """Return whether one evaluation was given, and not a folder to choose from."""
    return not isinstance(given, str | Path) or not Path(given).is_dir() or (Path(given) / FILES[0][0]).is_file()


def _is_last(found: EvaluationResult) -> bool:
    return found.which == "last" or found.model.endswith("last.safetensors")


def _evaluations(given: Evaluation | str | Path) -> list[EvaluationResult]:
    if not isinstance(given, str | Path):
        return [evaluation_result(given)]
    path = Path(given)
    if not path.exists():
        raise InputError(f"{str(path)!r} does not exist; pass a run evaluated with `kdiga evaluate`.")
    if not path.is_dir():
        return [_evaluation(path)]
    for names in FILES:
        if files := _files(path, names):
            found = [_evaluation(file) for file in files]
            stale = [_stale(one) for one in found]
            if None not in stale:
                raise InputError(f"{str(path)!r} holds no current evaluation: {stale[0]}; evaluate it again.")
            current = [one for one, reason in zip(found, stale, strict=True) if reason is None]
            _check_one_model(path, current)
            return current
    raise InputError(f"{str(path)!r} holds no evaluation; make one with `kdiga evaluate {path}`.")


def _files(path: Path, names: Sequence[str]) -> list[Path]:
    """Return the files of a run's own evaluations; of another folder the one in it, else all below it."""
    here = [path / name for name in names if (path / name).is_file()]
    is_run = (path / CONFIG).is_file()
    if here and not is_run:
        return here
    place = path / "evaluation" if is_run else path
    below = (file for name in names for file in sorted(place.rglob(name)))
    return here + [file for file in below if REPLACED not in file.relative_to(path).parts]


def _check_one_model(path: Path, found: Sequence[EvaluationResult]) -> None:
    """Check that evaluations are of one model, whose best and last weights may both be there."""
    models = dict.fromkeys(_model(one) for one in found)
    if len(models) > 1:
        names = some(list(map(str, models)), SHOWN)
        raise InputError(f"{str(path)!r} holds evaluations of {len(models)} models ({names}); name one of them.")
    for last in (False, True):
        weights = dict.fromkeys(one.fingerprint[:12] for one in found if one.fingerprint and _is_last(one) == last)
        if len(weights) > 1:
            raise InputError(
                f"{str(path)!r} holds evaluations of several weights of one model ({some(list(weights), SHOWN)}); give "
                "the folder of one evaluation."
            )


def _model(found: EvaluationResult) -> Path:
    """Return the run of an evaluation, or the model as it was named."""
    if found.identity.folder is not None:
        return found.identity.folder
    named = Path(found.model)
    return named.parent if named.name in ("best.safetensors", "last.safetensors") else named


def _stale(found: EvaluationResult) -> str | None:
    """Return in words that the run of an evaluation has other weights now; None if it has not, or it is unknown."""
    folder, which = found.identity.folder, found.which or "best"
    current = RunResult.read(folder).fingerprint(which) if folder else None
    if current is None or found.fingerprint in (None, current):
        return None
    return f"{str(found.path)!r} evaluates the weights {found.fingerprint[:12]}, but the run has {current[:12]}"


def _evaluation(path: Path) -> EvaluationResult:
    try:
        found = EvaluationResult.read(path)
        if any(found.correct.values()):
            return found
        problem = "it has no per-example results"
    except ValueError as error:
        problem = str(error)
    raise InputError(f"{str(path)!r} is not an evaluation ({problem}); pass a run evaluated with `kdiga evaluate`.")
