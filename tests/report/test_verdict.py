"""The verdict, rule by rule, on models whose numbers are chosen for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kdiga.report.differences import AccuracyDifference, difference_of
from kdiga.report.groups import group_models
from kdiga.report.model_registry import ModelRegistry
from kdiga.report.tables import signed
from kdiga.report.verdict import _images, judge_group
from kdiga.results.attack_names import strongest
from kdiga.results.evaluations import EvaluationResult
from kdiga.results.folders import Results, find_results
from kdiga.results.runs import RunResult, TrainingRecord
from kdiga.results.shared import Accuracy, Conditions, ResultOrigin, short_names
from kdiga.statistics import clopper_pearson, paired_difference
from tests.report.samples import evaluation, write_json, write_run

CONDITIONS = Conditions("digits", "linf", 0.1, "images")


def outcomes(right, images=400, shift=0):
    return [int(shift <= place < right + shift) for place in range(images)]


def accuracy(right, images=400, conditions=CONDITIONS, *, shift=0):
    correct = tuple(map(bool, outcomes(right, images, shift)))
    return Accuracy(right / images, clopper_pearson(right, images), images, correct, conditions, ORIGIN)


ORIGIN = ResultOrigin(Path("evaluation.json"), "kdiga evaluate")


def judged(name, right, *, attack="autoattack", findings=(), shift=0, **options):
    correct = {"clean": outcomes(380), attack: outcomes(right, shift=shift)}
    return EvaluationResult.model_validate(
        {
            "command": "kdiga evaluate",
            "model": f"runs/{name}",
            "which": "best",
            "architecture": "cnn",
            "parameters": 1000 if name != "teacher" else 5000,
            "fingerprint": f"print-{name}",
            "data": "digits",
            "threat": {"norm": "linf", "eps": 0.1},
            "data_fingerprint": "images",
            "accuracy": {name: sum(found) / len(found) for name, found in correct.items()},
            "correct": correct,
            "findings": list(findings),
            "version": "standard",
        }
        | options
    )


def trained(name, method, teacher="runs/teacher", folder=Path("runs"), parameters=1000):
    recipe = {"method": {"name": method}, "training": {"seed": 0}, "teacher": teacher, "student": {"name": "cnn"}}
    result = {"minutes": 1.0, "passes": {"student_forwards": 10}, "parameters": {"student": parameters}}
    return RunResult(folder / name, recipe, CONDITIONS, (), TrainingRecord.model_validate(result))


def answer_of(*models, runs=()):
    found, _ = group_models(Results(evaluations=models, runs=[trained("teacher", "pgd-at", None), *runs]))
    return judge_group(found[0])


STUDENTS = [trained("tangent", "tangent"), trained("kd", "kd")]
WITHIN = "difference within the margin of error"
PLAINLY = "which was trained plainly"


@pytest.mark.parametrize(
    ("teacher", "tangent", "kd", "headline"),
    [
        (
            300,
            240,
            100,
            "Yes, in part. The tangent student keeps 80 % of its teacher's robust accuracy (60.0 % vs 75.0 %)",
        ),
        (300, 298, 100, f"Yes. The tangent student is as robust as its teacher (74.5 % vs 75.0 %, {WITHIN})"),
        (300, 340, 100, "Yes. The tangent student is more robust than its teacher (85.0 % vs 75.0 %)"),
        (
            300,
            100,
            99,
            f"Undecided. The tangent student is about as robust as kd, {PLAINLY} (25.0 % vs 24.8 %, {WITHIN})",
        ),
        (300, 60, 150, f"No. The tangent student is less robust than kd, {PLAINLY} (15.0 % vs 37.5 %)"),
    ],
)
def test_headline_follows_the_intervals(teacher, tangent, kd, headline):
    said = answer_of(judged("teacher", teacher), judged("tangent", tangent), judged("kd", kd), runs=STUDENTS)
    assert said.headline == headline
    assert said.plain == "kd"


@pytest.mark.parametrize(
    ("teacher", "student", "size"),
    [
        (270722, 175000, ""),
        (150, 100, ""),
        (250, 100, ", with 40 % of the parameters"),
        (200, 100, ", with 1/2 of the parameters"),
        (97802, 7178, ", with 1/14 of the parameters"),
    ],
)
def test_headline_says_a_size_that_is_right(teacher, student, size):
    runs = [trained("teacher", "pgd-at", None, parameters=teacher), STUDENTS[1]]
    runs.append(trained("tangent", "tangent", parameters=student))
    models = [judged("teacher", 300), judged("tangent", 240), judged("kd", 100)]
    (group,), _ = group_models(Results(evaluations=models, runs=runs))
    assert judge_group(group).headline.endswith(f"(60.0 % vs 75.0 %){size}")


def test_without_a_plain_student_transfer_is_not_claimed():
    said = answer_of(judged("teacher", 300), judged("tangent", 240), runs=STUDENTS[:1])
    assert said.headline.startswith(
        "The tangent student keeps 80 % of its teacher's robust accuracy (60.0 % vs 75.0 %)."
    )
    assert "unknown whether distillation is the reason" in said.headline


def test_without_a_teacher_models_are_compared_with_each_other():
    said = answer_of(judged("tangent", 240), judged("kd", 100))
    assert said.headline.startswith("The teacher of these models is unknown")
    assert said.against_teacher == {}
    assert [sentence.name for sentence in said.sentences] == ["tangent", "kd"]


def test_a_robust_model_without_a_teacher_takes_the_claim_back():
    runs = [*STUDENTS, trained("alone", "pgd-at", None)]
    models = judged("teacher", 300), judged("tangent", 240), judged("kd", 100)
    as_good = answer_of(*models, judged("alone", 235, shift=20), runs=runs)
    assert as_good.headline.endswith("but alone is as robust without a teacher")
    assert any(
        "alone had no teacher and is not significantly less robust than tangent" in line for line in as_good.reliability
    )
    weaker = answer_of(*models, judged("alone", 200), runs=runs)
    assert weaker.headline.startswith("Yes, in part")
    assert not any("no teacher" in line for line in weaker.reliability)


def test_a_failed_check_comes_before_every_number():
    masked = [{"name": "black-box", "verdict": "failed", "message": "Square beats PGD."}]
    said = answer_of(judged("teacher", 300), judged("tangent", 298, findings=masked), judged("kd", 100), runs=STUDENTS)
    assert said.headline == "These numbers cannot be trusted yet: tangent failed checks"
    assert "not to be trusted: it failed black-box" in next(s.text for s in said.sentences if s.name == "tangent")
    assert said.reliability[0] == "tangent failed 1 of 1 checks: black-box."


def test_nothing_attacked_says_so():
    said = answer_of(judged("kd", 100, accuracy={"clean": 0.95}))
    assert said.headline == "No model was attacked here, so robustness is unknown"


def test_the_attack_is_one_that_teacher_and_student_share():
    said = answer_of(
        judged("teacher", 300, attack="pgd-20"),
        judged("tangent", 240, attack="pgd-20"),
        judged("kd", 100),
        runs=STUDENTS,
    )
    assert "under PGD-20" in said.sentences[0].text
    assert any("AutoAttack was not run on teacher and students both" in line for line in said.reliability)
    assert strongest(["clean", "fgsm", "pgd-20", "pgd-100", "cw-50"]) == "pgd-100"
    assert strongest(["pgd-40x5", "pgd-40x10", "pgd-40"]) == "pgd-40x10"
    assert strongest(["pgd-100", "autoattack"]) == "autoattack"
    assert strongest(["clean"]) is None


def test_the_best_of_many_is_said_to_be_picked():
    names = ["tangent", "kdiga", "igam"]
    models = [judged(name, 240 - 20 * row) for row, name in enumerate(names)]
    said = answer_of(judged("teacher", 300), *models, runs=[trained(name, name) for name in names])
    assert any("The most robust of 3 students was chosen on these same images" in line for line in said.reliability)


def test_gaps_are_paired_on_the_same_images_only():
    one, other = accuracy(200, shift=50), accuracy(180)
    paired = difference_of([one], [other])
    assert (paired.value, paired.low, paired.high) == paired_difference(one.correct, other.correct)
    assert paired.paired
    assert not paired.assumed
    elsewhere = accuracy(180, conditions=Conditions("digits", "linf", 0.1, "other images"))
    apart = difference_of([one], [elsewhere])
    assert not apart.paired
    assert apart.value == pytest.approx(0.05)
    spread = ((one.value - one.interval[0]) ** 2 + (other.interval[1] - other.value) ** 2) ** 0.5
    assert apart.low == pytest.approx(0.05 - spread)
    assert not difference_of([one], [accuracy(180, images=399)]).paired
    older = [accuracy(right, conditions=Conditions("digits", "linf", 0.1)) for right in (200, 180)]
    assert difference_of(older[:1], older[1:]).assumed
    assert difference_of([elsewhere, one], [other]).paired  # whichever of its measurements can be paired
    assert difference_of([one], []) is None


@pytest.mark.parametrize(("half", "points"), [(0.034, 4), (0.07, 7), (0.0701, 8)])
def test_the_margin_of_error_is_rounded_up(half, points):
    found = AccuracyDifference(0.1, 0.1 - half, 0.1 + half, True, False, accuracy(300), accuracy(260))
    assert f"is at most ±{points} points" in _images([found])[0]


def test_signs_of_points():
    assert [signed(value) for value in (0.1, -0.0501, 0.0, -0.0001)] == ["+10.0", "−5.0", "±0.0", "±0.0"]


def test_results_that_were_moved_find_their_run(tmp_path):
    for name in ("a/kd/seed-0", "b/kd/seed-0", "a/teacher"):
        (tmp_path / name).mkdir(parents=True)
    runs = [trained(name, "kd", None, tmp_path) for name in ("a/kd/seed-0", "b/kd/seed-0", "a/teacher")]
    register = ModelRegistry([], runs)
    assert register.locate("old/place/a/kd/seed-0") == (tmp_path / "a/kd/seed-0").resolve()
    assert register.locate("old/a/teacher/best.safetensors") == (tmp_path / "a/teacher").resolve()
    assert register.locate("kd/seed-0") is None  # two fit
    assert register.locate("resnet18") is None
    assert short_names(["x/a/kd/seed-0", "x/b/kd/seed-0", "x/a/teacher"], ["", "", " (last)"]) == [
        "a/kd/seed-0",
        "b/kd/seed-0",
        "teacher (last)",
    ]


def test_weights_that_changed_are_not_mixed(tmp_path):
    write_run(tmp_path / "kd", "kd")
    found = []
    for row, (fingerprint, right) in enumerate((("before", 100), ("after", 120))):
        content = judged("kd", right, fingerprint=fingerprint).to_dict()
        path = write_json(tmp_path / f"kd/evaluation/{row}/evaluation.json", content)
        found.append(EvaluationResult.read(path))
    old, new = found
    (group,), remarks = group_models(Results(evaluations=[old, new]))
    assert len(group.members) == 2
    assert "different best weights" in remarks[0].reason
    (group,), remarks = group_models(Results(evaluations=[new, new]))
    assert len(group.members) == 1
    assert remarks == []


@pytest.mark.parametrize("judged", [(), (0,), (1,), (0, 1)])
def test_rounds_of_a_run_are_not_models_of_the_report(judged, tmp_path):
    """Round 0 has the weights of the kdiga student, which is no teacher for that."""
    teachers = {"teacher": None, "kd": "teacher", "kdiga": "teacher", "rounds": "teacher"}
    teachers |= {"rounds/round-0": "teacher", "rounds/round-1": "rounds/round-0"}
    for name, teacher in teachers.items():
        kind = name if name in ("teacher", "kd") else "kdiga"
        write_run(tmp_path / name, kind, None if teacher is None else str(tmp_path / teacher))
        result = json.loads((tmp_path / name / "result.json").read_text())
        prints = {"best": f"weights-of-{'kdiga' if name == 'rounds/round-0' else name}"}
        write_json(tmp_path / name / "result.json", result | {"fingerprints": prints})
        if "round-" not in name or int(name[-1]) in judged:
            content = evaluation(kind) | {"model": str(tmp_path / name), "fingerprint": prints["best"]}
            write_json(tmp_path / name / "evaluation/a/evaluation.json", content)
    config = tmp_path / "rounds/config.yaml"
    config.write_text(config.read_text() + "rounds: {count: 2}\n")
    (group,), _ = group_models(find_results([tmp_path]))
    assert [one.name for one in group.teachers] == ["teacher"]
    expected = {"kd", "kdiga", "rounds"} | ({"round-1"} if 1 in judged else set())
    assert {one.name for one in group.students} == expected
    named = find_results([tmp_path / "rounds/round-1"]).runs
    assert [run.folder.name for run in named] == ["round-1"], "a folder that is named is read"
