"""`kdiga compare` of folders that hold several evaluations: the same weights of both, on the most equal images."""

from __future__ import annotations

import pytest

from kdiga.errors import InputError
from kdiga.workflows.compare import compare
from tests.report.samples import write_json


def write(folder, which, right, images=100, model=None, **more):
    """Write an evaluation of a run whose accuracy is ``right / images``."""
    content = {
        "kind": "evaluation",
        "model": str(model or folder),
        "which": which,
        "data": "digits",
        "data_fingerprint": f"first {images}",
        "threat": {"norm": "linf", "eps": 0.1},
        "seed": 0,
        "accuracy": {"pgd-20": right / images},
        "correct": {"pgd-20": [1] * right + [0] * (images - right)},
    }
    content |= more
    write_json(folder / f"evaluation/{which}-linf-0.1-{images}/evaluation.json", content)


@pytest.fixture
def runs(tmp_path):
    return tmp_path / "kd/seed-0", tmp_path / "tangent/seed-0"


def test_best_weights_come_before_more_images(runs):
    for run, best, last in zip(runs, (60, 50), (20, 150), strict=True):
        write(run, "best", best)
        write(run, "last", last, 200)
    found = compare(*runs)
    assert (found.attacks[0].first, found.attacks[0].second) == (0.6, 0.5)
    assert found.names == ("kd/seed-0", "tangent/seed-0")
    assert (found.first, found.second) == tuple(map(str, runs))


def test_last_weights_are_named(runs):
    write(runs[0], "best", 60, 200)
    for run in runs:
        write(run, "last", 20)
    found = compare(*runs)
    assert found.attacks[0].second == 0.2
    assert found.names == ("kd/seed-0 (last)", "tangent/seed-0 (last)")
    assert "kd/seed-0 (last) and tangent/seed-0 (last) are not significantly different" in found.sentences[0]
    assert found.to_dict()["first"] == f"{runs[0]} (last)"


@pytest.mark.parametrize("more", [0, 200])
def test_best_and_last_weights_are_compared_only_if_both_are_chosen(more, runs):
    write(runs[0], "last", 20)
    write(runs[1], "best", 50)
    if more:
        write(runs[0], "best", 60, more)
    with pytest.raises(InputError, match=r"none of the same weights \(best or last\) on the same images; give"):
        compare(*runs)
    found = compare(runs[0] / "evaluation/last-linf-0.1-100", runs[1] / "evaluation/best-linf-0.1-100")
    assert found.names == ("kd/seed-0 (last)", "tangent/seed-0")


@pytest.mark.parametrize("is_run", [True, False])
def test_a_folder_stands_for_its_own_model(is_run, tmp_path):
    """Weights of its rounds, or of runs below it, have more images."""
    for run in ("first", "second"):
        write(tmp_path / run, "best", 60)
        if is_run:
            (tmp_path / run / "config.yaml").write_text("data: {name: digits}\nthreat: {norm: linf, eps: 0.1}\n")
        write(tmp_path / run / "round-0", "best", 20, 200)
    if is_run:
        assert compare(tmp_path / "first", tmp_path / "second").attacks[0].first == 0.6
        return
    with pytest.raises(InputError, match=r"first' holds evaluations of 2 models \(.*round-0\); name one of them"):
        compare(tmp_path / "first", tmp_path / "second")


def test_a_folder_with_several_weights_of_one_name_is_refused(tmp_path):
    for number in (1, 2):
        write(tmp_path / f"results/{number}", "best", 60, model="run", fingerprint=str(number) * 64)
    with pytest.raises(InputError, match=f"several weights of one model .{'1' * 12}, {'2' * 12}.; give the folder"):
        compare(tmp_path / "results", tmp_path / "results/1")


def test_last_weights_of_a_study_can_be_compared(tmp_path):
    write(tmp_path / "made", "last", 30)
    for run in ("kd", "tangent"):
        made = tmp_path / "made/evaluation/last-linf-0.1-100/evaluation.json"
        (tmp_path / run).mkdir()
        (tmp_path / run / "last-test.json").write_text(made.read_text())
    assert compare(tmp_path / "kd", tmp_path / "tangent").attacks[0].first == 0.3
