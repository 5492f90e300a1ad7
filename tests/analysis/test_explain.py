"""An explanation as a whole: what it says, what it keeps, and what it refuses."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from kdiga.analysis import Explanation, WorstCaseSearch, explain
from kdiga.analysis.bounds import student_bound, transfer_bound
from kdiga.analysis.explanation import diagnose, reason_sentences, transfer_sentences
from kdiga.analysis.measures import Measurements
from kdiga.analysis.model_explanation import ModelExplanation, StudentExplanation
from kdiga.analysis.pictures import choose_examples, picture_arrays
from kdiga.errors import InputError
from kdiga.model_state import seeded
from kdiga.results.shared import short_names
from kdiga.runs.work_units import ResultCache
from kdiga.types import ThreatModel
from tests.conftest import five_layers

QUICK = WorstCaseSearch(steps=6, restarts=1, step=0.25)
THREAT = ThreatModel("linf", 0.1)


class Constant(nn.Module):
    """The same logits for every image."""

    def __init__(self, classes=10):
        super().__init__()
        self.logits = nn.Parameter(torch.arange(float(classes)))

    def forward(self, images):
        return self.logits.expand(len(images), -1)


def quickly(teacher, students, batch, **options):
    of_attack = {name: options.pop(name) for name in ("attack", "attack_folders") if name in options}
    measurements = Measurements(*batch, **{"threat": THREAT, "search": QUICK} | options)
    return explain(measurements, teacher, students, **{"attack": "pgd-3"} | of_attack)


def constructed(robust, cosine=0.8, gamma=0.1, distance=1.0, *, name="a", teacher=False):
    """A model of 100 examples, right on the first so many."""
    rows = 100
    plainly = ModelExplanation(
        name, [True] * rows, [row < robust for row in range(rows)], (), [gamma] * rows, [1.0] * rows
    )
    if teacher:
        return plainly
    own = {"distance": [distance] * rows, "measured": [0.1] * rows}
    return StudentExplanation(
        **vars(plainly)
        | {
            "cosine": [cosine] * rows,
            "distance": [distance] * rows,
            "student_bound": student_bound(0.1, linearity=[gamma] * rows, teacher_gradient=[1.0] * rows, **own),
            "transfer_bound": transfer_bound(
                0.1, clean_gap=[0.0] * rows, student_linearity=[gamma] * rows, teacher_linearity=[0.1] * rows, **own
            ),
        }
    )


def said(*students, teacher=80, seed=0):
    explanation = Explanation(THREAT, "autoattack", seed, 10, constructed(teacher, name="t", teacher=True), students)
    return [*transfer_sentences(explanation), *reason_sentences(explanation)]


def test_everything_is_plain_finite_data_and_in_one_order(teacher, student, batch):
    found = quickly(teacher, {"a": student, "b": five_layers(4)}, batch)
    content = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert [model["name"] for model in content["models"]] == ["teacher", "a", "b"]
    assert [model["role"] for model in content["models"]] == ["teacher", "student", "student"]
    assert all(len(model["linearity"]["values"]) == 12 for model in content["models"])
    assert set(content["models"][1]["bounds"]) == {"student", "transfer"}
    assert all(ranking["spearman"] is None for ranking in content["ranking"])
    assert "2 students are not enough" in content["reasons"][1]


def test_robust_accuracy_is_that_of_evaluate(teacher, student, batch):
    from kdiga.evaluation import evaluate

    found = quickly(teacher, {"a": student}, batch).students[0]
    report = evaluate(student, [batch], eps=0.1, attacks=["pgd-3"])
    assert tuple(found.robust) == report.results["pgd-3"].correct
    assert tuple(found.clean) == report.results["clean"].correct


def test_models_and_random_streams_are_left_as_found(teacher, student, batch):
    student.train()
    before = [value.clone() for value in student.state_dict().values()]
    torch.manual_seed(1)
    quickly(teacher, {"a": student}, batch)
    drawn = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(1))
    assert student.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in student.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, student.state_dict().values(), strict=True))


def test_what_is_kept_is_not_done_again_and_gives_the_same_answer(teacher, student, batch, tmp_path, monkeypatch):
    first = quickly(teacher, {"a": student}, batch, result_cache=ResultCache(tmp_path)).to_dict()
    assert quickly(teacher, {"a": student}, batch).to_dict() == first
    monkeypatch.setattr(WorstCaseSearch, "largest", None)
    assert quickly(teacher, {"a": student}, batch, result_cache=ResultCache(tmp_path)).to_dict() == first
    with pytest.raises(TypeError):
        quickly(teacher, {"a": student}, batch, result_cache=ResultCache(tmp_path), seed=1)


def test_weights_that_changed_are_measured_again(teacher, student, batch):
    def measured(measurements):
        return explain(measurements, teacher, {"s": student}, attack="fgsm").to_dict()["models"]

    search = WorstCaseSearch(steps=1, restarts=1)
    first, second = (Measurements(*batch, threat=ThreatModel("linf", 0.1), search=search) for _ in range(2))
    before = measured(first)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter *= 2
    after = measured(first)
    assert after == measured(second)
    assert after != before


def test_a_part_of_the_images_gives_the_same_numbers_for_them(teacher, student, monkeypatch):
    """Ten parts or one: the gradients of an example are its own."""
    with seeded(2):
        batch = torch.rand(10, 1, 8, 8), torch.randint(0, 10, (10,))
    whole = quickly(teacher, {"a": student}, batch).students[0]
    monkeypatch.setattr("kdiga.analysis.measures.CHUNK_SIZE", 4)
    parts = quickly(teacher, {"a": student}, batch).students[0]
    assert parts.gradient_norm == pytest.approx(whole.gradient_norm, rel=1e-5)
    assert parts.cosine == pytest.approx(whole.cosine, rel=1e-4)


def test_a_model_that_ignores_its_input_is_a_finding_and_its_cosine_undefined(teacher, batch):
    found = quickly(teacher, {"blind": Constant()}, batch)
    blind = found.to_dict()["models"][1]
    assert (blind["gradient"]["cosine"], blind["gradient"]["cosine_undefined"]) == (None, 12)
    assert blind["gradient"]["zero"] == 12
    finding = diagnose(found)[1]
    assert (finding.name, finding.verdict) == ("zero-gradients", "failed")
    assert any("agreement with the teacher's is undefined" in sentence for sentence in reason_sentences(found))
    assert diagnose(found)[0].verdict == "passed"


def test_nonsense_is_refused(teacher, student, batch):
    images, labels = batch
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    broken = five_layers(3)
    with torch.no_grad():
        broken[0].weight[0] = torch.nan
    refused = [
        ("student has 4 classes and the teacher 10", (teacher, {"a": other}, (images, labels % 4))),
        ("not finite", (teacher, {"a": broken}, batch)),
        ("the data was empty", (teacher, {"a": student}, (images[:0], labels[:0]))),
        ("pixels in", (teacher, {"a": student}, (images * 255, labels))),
        ("labels were in", (teacher, {"a": student}, (images, labels + 5))),
        ("no student", (teacher, {}, batch)),
    ]
    for message, arguments in refused:
        with pytest.raises(InputError, match=message):
            quickly(*arguments)
    for message, options in [
        ("eps was 0", {"threat": ThreatModel("linf", 0)}),
        ("robustness needs", {"attack": "clean"}),
    ]:
        with pytest.raises(InputError, match=message):
            quickly(teacher, {"a": student}, batch, **options)


def test_what_is_said_follows_from_the_numbers():
    assert said(constructed(80))[0] == (
        "a has 100 % [100 %, 100 %] of the teacher's robust accuracy (80.0 % of 80.0 % under AutoAttack): at least as "
        "much."
    )
    assert ": nearly all of it." in said(constructed(78))[0]
    assert ": less than half of it." in said(constructed(20))[0]
    assert ": more than half of it." in said(constructed(60))[0]
    assert "these images do not show whether" in said(constructed(41))[0]
    assert "its input gradients point along" in said(constructed(80))[2]
    assert "do not point along" in said(constructed(80, cosine=0.1))[2]
    assert "point partly along" in said(constructed(80, cosine=0.4))[2]
    assert "3.0 [3.0, 3.0] times the teacher's" in said(constructed(80, gamma=0.3))[3]


def test_a_teacher_without_robustness_has_none_to_pass_on():
    lines = said(constructed(5), teacher=8)
    assert lines[0].startswith("t has no robustness to pass on: 8.0 %")
    assert lines[1] == "a: 5.0 % under AutoAttack."


def test_students_side_by_side_are_as_expected_or_against_it():
    line = said(
        constructed(70, cosine=0.9, gamma=0.1, name="good"), constructed(20, cosine=0.1, gamma=0.05, name="bad")
    )[2]
    assert "good is more robust than bad by 50.0 points [" in line
    assert "cosine 0.90 against 0.10 (as expected)" in line
    assert "non-linearity 0.10 against 0.05 (against expectation)" in line
    assert "gradient distance 1.00 against 1.00 (undecided)" in line
    assert "undecided" in said(constructed(50), constructed(51, name="b"))[2]


def test_a_ranking_is_claimed_only_where_chance_and_images_allow():
    good = [constructed(10 * place, gamma=0.5 - 0.05 * place, name=str(place)) for place in range(1, 8)]
    assert "orders these 7 students as AutoAttack does: rank correlation 1.00" in said(*good)[8]
    assert said(*good)[10] == (
        "Alone, these measures order them: linearity (1.00); these are not shown to: gradient distance (undefined), "
        "gradient norm (undefined), measured loss change (undefined), cosine (undefined)."
    )
    assert "is not shown to order these 3 students" in said(*good[:3])[4]
    bad = [constructed(10 * place, gamma=0.1 + 0.05 * place, name=str(place)) for place in range(1, 8)]
    assert "is not shown to order these 7 students" in said(*bad)[8]
    assert "rank correlation -1.00" in said(*bad)[8]


def test_pictures_are_of_the_same_examples_and_within_the_ball(teacher, student, batch):
    images, labels = batch
    arrays = picture_arrays([teacher, student], images[:4], labels[:4], "abcdefghij", threat=THREAT, search=QUICK)
    assert arrays["classes"].tolist() == list("abcdefghij")
    for place in range(2):
        assert arrays[f"gradient_{place}"].shape == (4, 1, 8, 8)
        assert abs(arrays[f"adversarial_{place}"] - arrays["images"]).max() <= 0.1 + 1e-6
        assert arrays[f"prediction_{place}"].shape == arrays[f"adversarial_prediction_{place}"].shape == (4,)
    assert choose_examples([False, True, True, True], torch.tensor([0, 1, 1, 2]), 2) == [1, 3]
    assert choose_examples([False, True, True, True], torch.tensor([0, 1, 1, 2]), 9) == [0, 1, 2, 3]


class Returning(nn.Module):
    """Five layers that normalise in place, in a type of their own, and return a dict."""

    def __init__(self, dtype):
        super().__init__()
        self.layers = five_layers(1).to(dtype)

    def forward(self, images):
        return {"logits": self.layers(images.sub_(0.5)), "features": images}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_pictures_of_any_model_show_the_given_images(dtype, teacher, batch):
    images, labels = batch[0][:4], batch[1][:4]
    ask = {"threat": THREAT, "search": QUICK}
    arrays = picture_arrays([Returning(dtype), teacher], images.clone(), labels, "abcdefghij", **ask)
    alone = picture_arrays([teacher], images, labels, "abcdefghij", **ask)
    assert torch.equal(torch.from_numpy(arrays["images"]), images)
    for name in ("gradient", "adversarial", "prediction", "adversarial_prediction"):
        assert (arrays[f"{name}_1"] == alone[f"{name}_0"]).all()


def test_names_are_as_short_as_they_can_be():
    assert short_names(["r/kd/seed-0"]) == ["kd/seed-0"]
    assert short_names(["a/x", "b/x", "c"]) == ["a/x", "b/x", "c"]
    assert short_names(["x", "x"]) == ["x", "x (2)"]
    assert short_names(["runs/x", "y/runs/x"]) == ["runs/x", "y/runs/x"]
    assert short_names(["a/b/best.safetensors", "resnet20"]) == ["b/best.safetensors", "resnet20"]
