"""Attacks on files, on linear models: there the worst of a ball is known in closed form."""

from __future__ import annotations

import json
import time

import pytest
import torch
from torch import Tensor, nn

from kdiga.errors import InputError
from kdiga.evaluation import AttackResult
from kdiga.evaluation.autoattack import autoattack_stage
from kdiga.evaluation.stages import AttackSettings
from kdiga.export.exported_files import ExportedFile
from kdiga.export.file_attacks import attack_by_queries, transfer_attacks, transfer_to_files
from kdiga.export.file_measurements import FileMeasurements, Latency, OutputAgreement, latencies, with_worst
from kdiga.model_state import seeded
from kdiga.runs.work_units import ResultCache
from kdiga.types import ThreatModel

EPS = 0.03
CLASSES = 4


def linear(seed: int, *, bend: float = 0.0) -> nn.Module:
    with seeded(seed):
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, CLASSES)).eval()
        model[1].weight.data.mul_(0.5).add_(bend * torch.randn(CLASSES, 16))
    return model


@pytest.fixture(scope="module")
def examples() -> tuple[Tensor, Tensor]:
    with seeded(8):
        images = 0.3 + 0.4 * torch.rand(60, 1, 4, 4)  # far enough from 0 and 1 that nothing is clipped
    labels = linear(1)(images).argmax(1)
    labels[::7] = (labels[::7] + 1) % CLASSES  # some the model gets wrong
    return images, labels


def withstands(model: nn.Module, images: Tensor, labels: Tensor, eps: float = EPS) -> Tensor:
    """Right on every image of the Linf ball: each margin is larger than eps times the L1 norm of its row."""
    weight, logits = model[1].weight, model(images)
    rows = torch.arange(len(labels))
    margins = logits[rows, labels][:, None] - logits - eps * (weight[labels][:, None] - weight[None]).abs().sum(2)
    margins[rows, labels] = torch.inf
    return margins.amin(1) > 0


def exported(name: str, model: nn.Module) -> ExportedFile:
    def call(images: Tensor) -> Tensor:
        with torch.no_grad():
            return model(images)

    return file_of(name, call, name)


def file_of(name: str, call, digest: str) -> ExportedFile:
    return ExportedFile(name, call, digest, "torch")


def transfer(model, files, examples, attacks=("cw-20",), batch_size=250, **settings):
    own = AttackSettings(ThreatModel("linf", EPS), seed=0, batch_size=batch_size, **settings)
    return transfer_to_files(model, files, *examples, attacks=transfer_attacks(attacks), fingerprint="f", settings=own)


def test_on_a_file_of_the_same_function_transfer_is_a_white_box_attack(examples):
    model = linear(1)
    found = transfer(model, [exported("same", model)], examples, attacks=("cw-20", "pgd-20x2"))
    exact = withstands(model, *examples)
    assert 5 < int(exact.sum()) < 50
    cw = torch.tensor(found["same"]["transfer cw-20"].correct)
    # The margin of a linear model has its minimum in a corner, which sign steps reach for the class they descend to.
    assert torch.equal(cw & exact, exact)
    assert int((cw & ~exact).sum()) <= 2
    assert set(found["same"]) == {"transfer cw-20", "transfer pgd-20x2"}


def test_images_are_made_on_the_model_and_tried_on_the_file(examples):
    model, other = linear(1), linear(1, bend=0.3)
    images, labels = examples
    seen: list[Tensor] = []

    def call(tried: Tensor) -> Tensor:
        seen.append(tried.clone())
        with torch.no_grad():
            return other(tried)

    found = transfer(model, [file_of("other", call, "o")], examples, attacks=("fgsm",))["other"]["transfer fgsm"]
    clean, tried = seen
    # The slow way: one sign step up the model's cross-entropy.
    given = images.clone().requires_grad_()
    nn.functional.cross_entropy(model(given), labels, reduction="sum").backward()
    expected = (images + EPS * given.grad.sign()).clamp(0, 1)
    assert torch.equal(clean, images)
    assert torch.allclose(tried, expected, atol=1e-6)
    right = (other(images).argmax(1) == labels) & (other(expected).argmax(1) == labels)
    assert list(found.correct) == right.tolist()


def test_an_example_that_only_the_file_gets_right_is_attacked_too(examples):
    model, images = linear(1), examples[0]
    labels = linear(2)(images).argmax(1)
    found = transfer(model, [exported("two", linear(2))], (images, labels))["two"]["transfer cw-20"]
    assert sum(found.correct) > int((model(images).argmax(1) == labels).sum())


def test_autoattack_can_be_transferred(examples):
    model = linear(1)
    few = examples[0][:8], examples[1][:8]
    exact = withstands(model, *few)
    found = transfer(model, [exported("same", model)], few, attacks=("autoattack",))["same"]["transfer autoattack"]
    assert list(found.correct) == exact.tolist()


def test_transferred_autoattack_attacks_what_only_the_file_gets_right(examples):
    model, copy = linear(1), linear(1, bend=0.02)
    images, labels = examples[0], copy(examples[0]).argmax(1)
    wrong = model(images).argmax(1) != labels
    only = images[wrong], labels[wrong]
    assert len(only[1]) >= 5
    found = transfer(model, [exported("copy", copy)], only, attacks=("autoattack", "pgd-40"))["copy"]
    assert found["transfer autoattack"].correct == found["transfer pgd-40"].correct
    assert not all(found["transfer autoattack"].correct)


def test_a_stage_of_autoattack_gives_its_images(examples):
    model = linear(1)
    images, labels = examples
    right = model(images).argmax(1) == labels
    images, labels = images[right], labels[right]
    outcome = autoattack_stage("apgd-ce").attack(model, images, labels, ThreatModel("linf", EPS), 0)
    adv_images = outcome.adv_images
    assert (adv_images - images).abs().max() <= EPS + 1e-6
    assert torch.equal(adv_images[outcome.correct], images[outcome.correct])
    assert torch.equal(model(adv_images).argmax(1) == labels, outcome.correct)


def test_portions_are_kept_and_depend_on_the_files(examples, tmp_path):
    model, reported = linear(1), []
    first = exported("same", model)
    kept = ResultCache(tmp_path)
    one = transfer(
        model, [first], examples, result_cache=kept, batch_size=20, progress=lambda *event: reported.append(event)
    )
    assert reported == [("transfer cw-20", done, 60) for done in (20, 40, 60)]
    assert len(list(tmp_path.glob("*.json"))) == 3

    def never(_: Tensor) -> Tensor:
        raise AssertionError("measured again")

    again = transfer(
        model, [file_of("same", never, "same")], examples, result_cache=ResultCache(tmp_path), batch_size=20
    )
    assert again["same"]["transfer cw-20"].correct == one["same"]["transfer cw-20"].correct
    with pytest.raises(AssertionError, match="measured again"):
        transfer(
            model, [file_of("same", never, "another file")], examples, result_cache=ResultCache(tmp_path), batch_size=20
        )


@pytest.mark.parametrize("name", ["clean", "pdg-40"])
def test_what_is_no_attack_is_refused(name):
    with pytest.raises(InputError):
        transfer_attacks([name])


def test_the_model_is_left_as_found(examples):
    model = linear(1).train()
    transfer(model, [exported("same", model)], examples)
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_square_asks_the_file_for_logits_alone(examples, tmp_path):
    model = linear(1)
    queries: list[int] = []

    def call(images: Tensor) -> Tensor:
        queries.append(len(images))
        with torch.no_grad():
            return model(images)

    def attacked() -> AttackResult:
        settings = AttackSettings(ThreatModel("linf", EPS), 0, 30, ResultCache(tmp_path))
        return attack_by_queries(file_of("file", call, "d"), *examples, queries=300, settings=settings)

    found = attacked()
    exact = withstands(model, *examples)
    right = torch.tensor(found.correct)
    clean = model(examples[0]).argmax(1) == examples[1]
    assert found.attack == "square-300"
    assert torch.equal(right & exact, exact)  # what the ball cannot hold is not found
    assert int((right & ~exact).sum()) < 0.6 * int((clean & ~exact).sum())  # most of what it holds is
    assert sum(queries) <= 60 + 60 * 303
    before = len(queries)
    assert attacked().correct == found.correct
    assert len(queries) - before <= 2  # clean accuracy; the attack itself is kept


def test_the_worst_case_is_over_the_examples_that_all_attacks_saw():
    results = {
        "clean": AttackResult("clean", (True, True, True, False), 0.0),
        "transfer pgd-2": AttackResult("transfer pgd-2", (True, False, True, False), 0.0),
        "square-9": AttackResult("square-9", (True, True, False), 0.0),
    }
    worst = with_worst(results)["worst"]
    assert worst.correct == (True, False, False)
    assert with_worst({"clean": results["clean"]})["worst"].accuracy == 0.75


def test_figures_as_plain_data(tmp_path):
    near = OutputAgreement(1e-6, 3.0, (True, True, False, True))
    (tmp_path / "model.onnx").write_bytes(bytes(10))
    measured = FileMeasurements(
        ExportedFile("onnx", len, "d", "onnxruntime 1", tmp_path / "model.onnx"),
        near,
        {"clean": AttackResult("clean", (True,) * 9 + (False,), 0.0)},
    )
    found = json.loads(json.dumps(measured.to_dict()))
    assert (found["file"], found["bytes"]) == ("model.onnx", 10)
    assert found["agreement"]["same_class"] == 0.75
    assert found["accuracy"] == {"clean": 0.9}
    assert [round(end, 4) for end in found["interval_95"]["clean"]] == [0.555, 0.9975]  # Clopper and Pearson's tables
    assert Latency.of([0.001, 0.002, 0.003]) == Latency(median=2.0, low=1.5, high=2.5, runs=3)


def test_latency_is_of_calls_in_turn_after_a_warm_up_in_one_thread():
    order: list[tuple[str, int, int]] = []

    def sleeper(name: str, seconds: float):
        def call(images: Tensor) -> Tensor:
            order.append((name, len(images), torch.get_num_threads()))
            time.sleep(seconds * (20 if len(order) <= 2 else 1))  # the first call is slow, as first calls are
            return images

        return call

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = latencies({"a": sleeper("a", 0.001), "b": sleeper("b", 0.004)}, torch.rand(3, 1, 2, 2), batches=(1, 7))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert {threads for _, _, threads in order} == {1}
    assert [name for name, _, _ in order[:4]] == ["a", "b", "a", "b"]
    assert {size for _, size, _ in order} == {1, 7}
    for size in (1, 7):
        assert 0.9 <= found["a"][size].median < found["b"][size].median
        assert 3.9 <= found["b"][size].low <= found["b"][size].median <= found["b"][size].high
    assert (found["a"][1].runs, found["a"][7].runs) == (50, 5)


def test_right_means_right_without_an_attack_and_on_every_image_of_it(examples):
    images, labels = examples[0][:4], examples[1][:4]
    script = [[0, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0, 1]]  # unattacked, from the first start, from the second
    answers = iter(script)

    def call(_: Tensor) -> Tensor:
        right = torch.tensor(next(answers), dtype=torch.bool)
        return nn.functional.one_hot(torch.where(right, labels, (labels + 1) % CLASSES), CLASSES).float()

    found = transfer(linear(1), [file_of("scripted", call, "s")], (images, labels), attacks=("pgd-2x2",))
    assert found["scripted"]["transfer pgd-2x2"].correct == (False, False, False, True)
