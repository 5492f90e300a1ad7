"""Result files found, checked, and left out where they are damaged."""

from __future__ import annotations

import json

import numpy as np
import pytest

from kdiga.errors import InputError
from kdiga.report import write_page
from kdiga.results.evaluations import EvaluationResult
from kdiga.results.fields import DamagedError
from kdiga.results.folders import FILES, find_results
from kdiga.results.shared import validated
from kdiga.results.studies import StudyResult
from tests.report.samples import (
    certificate,
    evaluation,
    explanation,
    pictures,
    write_all,
    write_json,
    write_run,
    write_study,
)


@pytest.fixture
def folder(tmp_path):
    write_json(tmp_path / "good/evaluation.json", evaluation("kd"))
    return tmp_path


def broken(change):
    content = evaluation("tangent")
    change(content)
    return content


DAMAGED = {
    "it holds NaN": lambda c: c["accuracy"].update(autoattack=float("nan")),
    "not a finite number": lambda c: c["accuracy"].update(autoattack="0.9"),
    "leaves out its value 0.8": lambda c: c["interval_95"].update(clean=[0.1, 0.2]),
    "null character": lambda c: c.update(model="\0"),
    "not in [0, 1]": lambda c: c["accuracy"].update(clean=80.0),
    "are marked right": lambda c: c["accuracy"].update(clean=0.5),
    "threat.norm is 'l7', not 'linf', 'l2' or 'l1'": lambda c: c["threat"].update(norm="l7"),
    "threat is missing": lambda c: c.pop("threat"),
    "threat is not an object": lambda c: c.update(threat=[]),
    "it holds no accuracy": lambda c: c.update(accuracy={}),
    "not one accuracy and one interval an eps": lambda c: c["sweep"]["eps"].pop(),
    "verdict is 'great', not 'passed', 'warning',": lambda c: c["findings"][0].update(verdict="great"),
    "its kind is 'certificate', not 'evaluation'": lambda c: c.update(kind="certificate"),
    "on how many images": lambda c: (c.pop("correct"), c.pop("examples")),
}


@pytest.mark.parametrize("reason", DAMAGED)
def test_a_damaged_evaluation_is_left_out_with_its_reason(folder, reason):
    path = write_json(folder / "bad/evaluation.json", broken(DAMAGED[reason]))
    results = find_results([folder])
    assert len(results.evaluations) == 1
    assert [one.path for one in results.left_out] == [path]
    assert reason in results.left_out[0].reason
    page = write_page([folder])
    text = page.path.read_text()
    assert f"{folder.name}/bad/evaluation.json" in text
    assert str(folder) not in text
    assert "left out, because" in text
    assert [one.path for one in page.left_out] == [path]


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", '"text"', "[" * 100_000, "\x00\xff"])
def test_foreign_files_are_left_out(folder, text):
    (folder / "explanation.json").write_text(text, encoding="latin-1")
    results = find_results([folder])
    assert len(results.evaluations) == 1
    assert len(results.left_out) == 1


def test_a_crossed_interval_is_left_out(folder):
    content = evaluation("tangent")
    content["interval_95"]["clean"] = [0.9, 0.1]
    write_json(folder / "bad/evaluation.json", content)
    assert "not an interval" in find_results([folder]).left_out[0].reason


def test_pictures_must_fit_their_explanation(folder):
    write_json(folder / "explain/explanation.json", explanation(["kd"]))
    for arrays, reason in (
        (pictures(1), "no gradient and adversarial image of model 1"),
        (pictures(2) | {"gradient_0": np.full((4, 1, 14, 14), np.nan)}, "of model 0"),
        (pictures(2) | {"images": np.zeros(3)}, "holds no images"),
        (pictures(2) | {"labels": np.array([object()] * 4)}, "cannot be read"),
        (pictures(2) | {"classes": np.zeros((2, 2))}, "not a name each"),
        (pictures(2) | {"classes": np.zeros(10**4, "V0")}, "says that"),
    ):
        np.savez(folder / "explain/explanation.npz", **arrays)
        (left_out,) = find_results([folder]).left_out
        assert reason in left_out.reason
    (folder / "explain/explanation.npz").unlink()
    assert "cannot be read" in find_results([folder]).left_out[0].reason
    np.savez(folder / "explain/explanation.npz", **pictures(2))
    assert find_results([folder]).explanations[0].gallery is not None


def test_a_certificate_must_have_curves(folder):
    content = certificate("kd")
    content["clever"]["curve"]["accuracy"].pop()
    write_json(folder / "certificate.json", content)
    assert "not one accuracy a radius" in find_results([folder]).left_out[0].reason


def test_a_killed_run_is_shown_as_far_as_it_came(tmp_path):
    write_run(tmp_path / "kd", "kd")
    journal = tmp_path / "kd/journal.jsonl"
    journal.write_text(journal.read_text()[:-40])
    (tmp_path / "kd/result.json").unlink()
    (run,) = find_results([tmp_path]).runs
    assert len(run.epochs) == 5
    assert run.minutes is None
    assert "Loss terms of kd" in write_page([tmp_path]).path.read_text()


def test_a_study_without_its_lists_is_left_out(tmp_path):
    write_study(tmp_path)
    content = json.loads((tmp_path / "study.json").read_text())
    del content["methods"]
    write_json(tmp_path / "study.json", content)
    assert "methods is missing" in find_results([tmp_path]).left_out[0].reason


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("minutes",), -0.45, "minutes is -0.45, less than any run takes"),
        (("minutes",), 5e-324, "minutes is 5e-324, less"),
        (("passes", "student_forwards"), 10**400, "student_forwards is 1000"),
        (("passes", "teacher_backwards"), 1e308, "teacher_backwards is 1e.308, not a finite number"),
        (("passes",), [1], "passes is not an object"),
        (("accuracy", "best", "clean"), 1.5, r"accuracy.best.clean is 1.5, not in \[0, 1\]"),
        (("accuracy", "last", "pgd-20"), 10**40, "accuracy.last.pgd-20 is 1000"),
        (("accuracy",), None, "accuracy is not an object"),
    ],
)
def test_figures_of_a_study_that_no_picture_can_show(tmp_path, place, value, message):
    content = json.loads((write_study(tmp_path) / "study.json").read_text())
    at = content["methods"][1]["runs"][0]
    for key in place[:-1]:
        at = at[key]
    at[place[-1]] = value
    with pytest.raises(DamagedError, match=message):
        validated(StudyResult, content)


@pytest.mark.parametrize(
    ("key", "value"),
    [("which", []), ("which", [3]), ("attacks", {}), ("attacks", {"clean": 10**400}), ("threat", {"eps": 10**400})],
)
def test_a_study_whose_columns_cannot_be(tmp_path, key, value):
    content = json.loads((write_study(tmp_path) / "study.json").read_text())
    assert validated(StudyResult, content).to_dict() == content
    with pytest.raises(DamagedError):
        validated(StudyResult, content | {key: value})


def test_training_of_negative_length_is_left_out(tmp_path):
    write_run(tmp_path / "kd", "kd")
    result = tmp_path / "kd/result.json"
    result.write_text(result.read_text().replace('"minutes": 0.17', '"minutes": -1'))
    write_run(tmp_path / "tangent", "tangent")
    results = find_results([tmp_path])
    assert [run.folder.name for run in results.runs] == ["tangent"]
    assert "minutes is -1, below 0" in results.left_out[0].reason


def test_portions_and_what_lies_too_deep_are_not_searched(folder):
    write_json(folder / "portions/evaluation.json", {"kind": "other"})
    write_json(folder.joinpath(*"abcdefghi") / "evaluation.json", evaluation("tangent"))
    results = find_results([folder])
    assert len(results.evaluations) == 1
    assert results.left_out == []
    assert len(find_results([folder, folder / "good"]).evaluations) == 1  # named twice, read once


def test_nothing_readable_is_an_error(tmp_path):
    with pytest.raises(InputError, match="no readable result"):
        find_results([tmp_path])
    (tmp_path / "evaluation.json").write_text("{")
    with pytest.raises(InputError, match="not readable JSON"):
        find_results([tmp_path])
    with pytest.raises(InputError, match="is not a folder"):
        find_results([tmp_path / "absent"])
    with pytest.raises(InputError, match="no folder was given"):
        write_page([])


def test_files_are_written_as_they_were_read(tmp_path):
    write_all(tmp_path / "all")
    write_study(tmp_path / "study")
    read = 0
    for path in sorted(tmp_path.rglob("*.json")):
        if path.name in FILES and "portions" not in path.parts:
            FILES[path.name].read(path).write(tmp_path / "again.json")
            assert json.loads((tmp_path / "again.json").read_text()) == json.loads(path.read_text()), path
            read += 1
    assert read > 20


def test_unknown_fields_are_preserved(tmp_path):
    content = evaluation("kd") | {"future": {"a": [1, None]}}
    content["sweep"]["future"] = 2
    EvaluationResult.read(write_json(tmp_path / "evaluation.json", content)).write(tmp_path / "again.json")
    assert json.loads((tmp_path / "again.json").read_text()) == content


def test_a_certificate_without_a_common_image_is_read(tmp_path):
    content = certificate("kd")
    content["against"]["clever"] |= {"share_at_least_teacher": None, "share_interval_95": None}
    write_json(tmp_path / "certificate.json", content)
    (found,) = find_results([tmp_path]).certificates
    assert found.comparisons["clever"].share_at_least_teacher is None
