"""What the caller may count on: the contract of the one function, whatever the model."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn

from kdiga.errors import InputError
from kdiga.evaluation.masking import CHECKS, check_masking
from kdiga.evaluation.masking.all_checks import Check
from kdiga.evaluation.masking.finding import Finding
from kdiga.runs.work_units import ResultCache
from kdiga.types import ThreatModel
from tests.evaluation.masking.planted import PLANTED, Around, Constant, small

THREAT = ThreatModel("linf", 0.1)
QUICK = [check for check in CHECKS if check.name not in ("black-box", "large-eps", "decision-based")]


@pytest.fixture
def images():
    return torch.rand(30, 1, 8, 8, generator=torch.Generator().manual_seed(4))


@pytest.fixture
def model():
    return small(1).eval()


@pytest.fixture
def labels(model, images):
    with torch.no_grad():
        return model(images).argmax(1)


class Counting(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model, self.images = model, 0

    def forward(self, images):
        self.images += len(images)
        return self.model(images)


def verdicts(findings):
    return {finding.name: finding.verdict for finding in findings}


def test_one_finding_a_check_in_plain_data(model, images, labels):
    findings = check_masking(model, images, labels, threat=THREAT, seed=0, teacher=small(2))
    assert [finding.name for finding in findings] == [check.name for check in CHECKS]
    for finding in findings:
        plain = finding.to_dict()
        assert json.loads(json.dumps(plain, allow_nan=False)) == plain
        assert finding.message.endswith(".")
        assert "\n" not in finding.message


def test_the_model_and_the_random_streams_are_left_as_found(model, images, labels):
    """Though batch norm came in train mode, the teacher too, and the model draws random numbers."""
    teacher = small(2).train()
    model[1].train()
    noisy = Around(model, before=lambda x: x + 0.01 * torch.rand_like(x))
    model[1].training = True
    networks = (model, teacher)
    before = [{name: value.clone() for name, value in network.state_dict().items()} for network in networks]
    state = torch.get_rng_state()
    check_masking(noisy, images, labels, threat=THREAT, seed=0, teacher=teacher, checks=QUICK)
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model] == [place == 1 for place in range(len(model))]
    assert all(module.training for module in teacher.modules())
    for network, values in zip(networks, before, strict=True):
        assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())
        assert all(torch.equal(values[name], value) for name, value in network.state_dict().items())


def test_the_same_seed_says_the_same(model, images, labels):
    first, again = (
        check_masking(model, images, labels, threat=THREAT, seed=3, checks=QUICK, teacher=small(2)) for _ in range(2)
    )
    assert first == again


def test_finished_measurements_are_taken_from_the_cache(model, images, labels, tmp_path):
    counting = Counting(model)
    ask = {"threat": THREAT, "seed": 0, "teacher": small(2)}
    first = check_masking(counting, images, labels, **ask, result_cache=ResultCache(tmp_path), checks=QUICK)
    made, counting.images = counting.images, 0
    again = check_masking(counting, images, labels, **ask, result_cache=ResultCache(tmp_path), checks=QUICK)
    assert first == again
    assert counting.images < 40 * len(images) < made  # behaviour is looked at anew, and cheap

    counting.images = 0
    check_masking(counting, images, labels, **ask | {"seed": 1}, result_cache=ResultCache(tmp_path), checks=QUICK)
    assert counting.images > 100 * len(images)


def test_another_models_measurements_are_not_taken(images, labels, model, tmp_path):
    """The same module with other weights, the same weights under a name of its own."""
    masked = Around(model, before=lambda x: x.detach())
    check_masking(model, images, labels, threat=THREAT, seed=0, result_cache=ResultCache(tmp_path), checks=QUICK)
    found = check_masking(
        masked, images, labels, threat=THREAT, seed=0, result_cache=ResultCache(tmp_path), checks=QUICK
    )
    assert verdicts(found)["flat-loss"] == "failed"


def test_measurements_are_made_once(model, images, labels):
    """White-box attacks serve six checks; each is reported once for every batch."""
    reported = list[tuple[str, int, int]]()
    check_masking(
        model,
        images,
        labels,
        threat=THREAT,
        seed=0,
        on_progress=lambda *what: reported.append(what),
        checks=[check for check in CHECKS if check.name not in ("black-box", "decision-based")],
    )
    forty = [what for what in reported if what[0] == "masking: ce-40 eps 0.1"]
    assert forty
    assert all(done == total for _, done, total in forty)
    counting = Counting(model)
    check_masking(counting, images, labels, threat=THREAT, seed=0, checks=QUICK)
    steps = 1 + 10 + 40 + 100 + 40 + 40  # of cross-entropy, margin, scaled cross-entropy
    assert counting.images < (steps + 200 + 150) * len(images)  # random search, behaviour


def test_only_right_examples_are_attacked(model, images, labels):
    """Wrong ones count neither as fooled nor as standing."""
    labels[::3] = (labels[::3] + 1) % 10
    findings = check_masking(model, images, labels, threat=THREAT, seed=0, examples=30, checks=QUICK)
    assert {f.name: f.evidence["examples"] for f in findings if f.name == "more-steps"} == {"more-steps": 20}


def test_the_search_for_right_examples_goes_beyond_the_first(model, images, labels):
    images, labels = images.repeat(5, 1, 1, 1), labels.repeat(5)
    labels[5:100] = (labels[5:100] + 1) % 10
    only = [check for check in CHECKS if check.name == "more-steps"]
    (finding,) = check_masking(model, images, labels, threat=THREAT, seed=0, examples=20, checks=only)
    assert finding.evidence["examples"] == 20


def test_measurements_on_other_examples_or_with_another_teacher_are_not_taken(model, images, labels):
    result_cache, only = ResultCache(), [check for check in CHECKS if check.name == "transfer"]

    def transfers(images, teacher):
        (finding,) = check_masking(
            model, images, labels, threat=THREAT, seed=0, result_cache=result_cache, teacher=teacher, checks=only
        )
        return finding.evidence["transfers"], finding.evidence["left"]

    share, left = transfers(images, model)
    assert share > 0.5  # the model's own adversarial images
    assert transfers(images, Constant())[0] < share
    assert transfers(images + 0.2 * (0.5 - images), model) != (share, left)


def test_transfer_names_the_model_that_fools_most(model, images, labels):
    masked, only = Around(model, before=lambda x: x.detach()), [check for check in CHECKS if check.name == "transfer"]
    others = {"constant": Constant(), "unmasked": model}
    (finding,) = check_masking(masked, images, labels, threat=THREAT, seed=0, transfer_from=others, checks=only)
    found = {name: source["found"] for name, source in finding.evidence["sources"].items()}
    assert finding.evidence["found"] == found["unmasked"] > found["constant"] == 0
    assert finding.verdict == "failed"
    assert f"2 models (most by unmasked: unmasked {found['unmasked']}, constant 0) fooled" in finding.message


class Inverted(nn.Module):
    """Has its preprocessing in a plain attribute, which neither weights nor ``repr`` show."""

    def __init__(self, model, inverts):
        super().__init__()
        self.model, self.inverts = model, inverts

    def forward(self, images):
        return self.model(1 - images if self.inverts else images)


def test_models_that_differ_in_an_attribute_have_their_own_results(model, images, labels):
    """As sources of a transfer and as the checked model, also after another model used the same cache."""
    plain, inverted = Inverted(model, False), Inverted(model, True)
    found = []
    for names in (("plain", "inverted"), ("inverted", "plain")):
        sources = {name: {"plain": plain, "inverted": inverted}[name] for name in names}
        only = [check for check in CHECKS if check.name == "transfer"]
        (finding,) = check_masking(model, images, labels, threat=THREAT, seed=0, transfer_from=sources, checks=only)
        found.append(finding.evidence["sources"])
    assert found[0] == found[1]
    assert found[0]["plain"]["transfers"] > found[0]["inverted"]["transfers"]
    keys = []

    def look(context):
        keys.append(context.identity["model"])
        return Finding("look", "passed", "", {})

    for one in (plain, inverted, plain):
        check_masking(one, images, labels, threat=THREAT, seed=0, checks=[Check("look", look, attacks=False)])
    assert keys[0] == keys[2] != keys[1]


@pytest.mark.parametrize(
    ("right", "eps", "reason"),
    [(19, 0.1, "classifies 19 examples correctly; the check needs 20"), (30, 0.0, "eps is 0")],
)
def test_attacks_without_examples_or_a_ball_are_skipped(right, eps, reason, model, images, labels):
    labels[right:] = (labels[right:] + 1) % 10
    findings = check_masking(model, images, labels, threat=ThreatModel("linf", eps), seed=0)
    skipped = [finding for finding in findings if finding.verdict == "skipped"]
    assert [finding.name for finding in skipped] == [check.name for check in CHECKS if check.attacks]
    assert all(reason in finding.message for finding in skipped)


def test_without_a_teacher_transfer_is_skipped(model, images, labels):
    findings = check_masking(model, images, labels, threat=THREAT, seed=0, checks=QUICK)
    assert verdicts(findings)["transfer"] == "skipped"


def test_one_image(model, images, labels):
    """Nothing to compare with: skipped, not passed."""
    found = verdicts(check_masking(model, images[:1], labels[:1], threat=THREAT, seed=0))
    assert {found["uses-input"], found["batch-independent"]} == {"skipped"}


def test_a_whole_range_of_eps_is_enough(model, images, labels):
    """At eps 1 there is no larger one."""
    only = [check for check in CHECKS if check.name == "large-eps"]
    (finding,) = check_masking(model, images, labels, threat=ThreatModel("linf", 1.0), seed=0, checks=only)
    assert finding.evidence["eps"] == [1.0]
    (finding,) = check_masking(model, images, labels, threat=ThreatModel("l2", 0.5), seed=0, checks=only)
    assert finding.evidence["eps"][0] == 0.5
    assert finding.evidence["eps"][-1] == math.sqrt(64)
    assert finding.evidence["accuracy"] == sorted(finding.evidence["accuracy"], reverse=True)


def test_images_too_small_for_square_in_l2(images):
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).eval()
    tiny = images[:, :, :4, :4]
    labels = model(tiny).argmax(1)
    only = [check for check in CHECKS if check.name == "black-box"]
    (finding,) = check_masking(model, tiny, labels, threat=ThreatModel("l2", 0.5), seed=0, checks=only)
    assert finding.verdict == "skipped"


class Nan(nn.Module):
    """Finite at the images it is shown first, and not a number near them."""

    def forward(self, images):
        exact = (images * 8 == (images * 8).round()).all()
        return images.flatten(1)[:, :3] * (1.0 if exact else math.nan)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.rand(0, 1, 8, 8), "labels": torch.zeros(0).long()}, "at least one"),
        ({"examples": 0}, "at least one"),
        ({"images": torch.rand(30, 1, 8, 8) * 2}, r"must be in \[0, 1\]"),
        ({"labels": torch.full((30,), 10)}, "the model has 10 classes"),
        ({"labels": torch.zeros(30)}, "must be integers"),
        ({"model": nn.Sequential(nn.Flatten(), nn.Linear(64, 1)).eval()}, "at least two classes"),
        ({"model": nn.Flatten(2)}, "at least two classes"),
        ({"model": Around(small(1), after=lambda z: z * math.nan)}, "not finite"),
        ({"teacher": small(1, classes=7)}, "must have the same"),
        ({"transfer_from": {"other": small(1, classes=7)}}, "must have the same"),
        ({"transfer_from": {"other": Around(small(1), after=lambda z: z * math.nan)}}, "the model 'other' returned"),
        ({"teacher": Around(small(1), after=lambda z: z * math.nan)}, "the teacher returned logits that are not"),
    ],
)
def test_bad_input(change, message, model, images, labels):
    given = {"model": model, "images": images, "labels": labels} | change
    with pytest.raises(InputError, match=message):
        check_masking(**given, threat=THREAT, seed=0)


def test_logits_that_are_not_finite_near_the_images_are_a_finding():
    labels = torch.arange(30) % 3
    findings = check_masking(Nan(), torch.eye(8)[labels].view(30, 1, 8, 1), labels, threat=THREAT, seed=0)
    failed = {finding.name for finding in findings if finding.verdict == "failed" and "not finite" in finding.message}
    assert {"flat-loss", "more-steps", "random-search", "black-box"} <= failed


def test_every_check_is_planted():
    """A check that no masked model is built for could be broken without anyone seeing."""
    own = {name for planted in PLANTED.values() for name in planted.expected}
    assert own == {check.name for check in CHECKS}


def test_constant_model_has_no_right_to_robustness(images):
    labels = torch.full((30,), 9)
    found = verdicts(check_masking(Constant(), images, labels, threat=THREAT, seed=0, teacher=small(1)))
    assert found["uses-input"] == "failed"
    assert found["large-eps"] == "failed"
    assert found["flat-loss"] == "failed"
