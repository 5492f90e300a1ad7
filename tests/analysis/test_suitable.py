"""Whether a teacher is worth distilling: verdicts by rule, and mistakes in preprocessing that are planted."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn

from kdiga.analysis import WorstCaseSearch, preprocessing
from kdiga.analysis.measures import Measurements
from kdiga.analysis.preprocessing import Alternative, best_order, class_order_finding, preprocessing_finding
from kdiga.analysis.suitable import suitable
from kdiga.errors import InputError
from kdiga.model_state import seeded
from kdiga.models import Classifier
from kdiga.models.classifier import ModelSpec
from kdiga.models.input_layers import NORMALIZATIONS, Normalize
from kdiga.runs.work_units import ResultCache
from kdiga.types import ThreatModel
from tests.analysis.test_explain import Constant

QUICK = WorstCaseSearch(steps=8, restarts=1, step=0.25)
HALF = {"mean": (0.5,), "std": (0.5,)}


class Stripes(nn.Module):
    """Four classes: which quarter of the rows is nearest to a shade."""

    def __init__(self, shade, scale=20.0):
        super().__init__()
        self.shade = nn.Parameter(torch.tensor([shade]))
        self.scale = scale

    def forward(self, images):
        return -self.scale * (images.reshape(len(images), 4, -1).mean(2) - self.shade).square()


def pictures(stripe, rest, count=200, channels=1):
    """One quarter of the rows in one shade, the others in another, with noise."""
    with seeded(6):
        labels = torch.arange(count) % 4
        images = rest + 0.04 * torch.randn(count, channels, 8, 8)
        for row, label in enumerate(labels.tolist()):
            images[row, :, 2 * label : 2 * label + 2] += stripe - rest
    return images.clamp(0, 1), labels


def classifier(network, **normalization):
    return Classifier(ModelSpec("planted", num_classes=4, in_channels=1, image_size=8, **normalization), network)


def examine(model, batch, eps=0.02, **options):
    return suitable(Measurements(*batch, threat=ThreatModel("linf", eps), search=QUICK, **options), model)


def verdicts(found):
    return {finding.name: finding.verdict for finding in found.findings}


def test_a_sound_teacher_is_suitable_and_its_numbers_are_plain():
    found = examine(classifier(Stripes(0.8)), pictures(0.7, 0.2))
    assert set(verdicts(found).values()) == {"passed"}
    assert found.verdict == "suitable"
    assert found.sentence() == "suitable: all 6 checks passed."
    content = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert content["clean"] == content["robust"]["accuracy"] == content["ratio"] == 1.0


def test_a_teacher_that_falls_to_the_attack_is_unsuitable():
    found = examine(classifier(Stripes(0.8)), pictures(0.7, 0.2), eps=0.5)
    assert verdicts(found)["robust-accuracy"] == "failed"
    assert found.verdict == "unsuitable"
    assert "robust-accuracy failed" in found.sentence()


def test_a_teacher_with_some_robustness_is_doubtful():
    """Right on all; the attack takes those of the fainter stripe, two in three."""
    images, labels = pictures(0.7, 0.2, 150)
    faint, _ = pictures(0.3, 0.2, 150)
    images[:100] = faint[:100]
    found = examine(classifier(Stripes(0.8)), (images, labels), eps=0.1)
    assert verdicts(found)["robust-accuracy"] == "warning"
    assert found.verdict == "doubtful"
    entropy = found.measures["entropy"]
    with torch.no_grad():
        shares = Stripes(0.8)(images).softmax(1)
    by_hand = -(shares * shares.log()).sum(1)
    assert entropy["fooled_examples"] == 100
    assert entropy["fooled"] == pytest.approx(float(by_hand[:100].mean()), rel=1e-4)
    assert entropy["others"] == pytest.approx(float(by_hand[100:].mean()), rel=1e-4)
    assert entropy["others"] < entropy["fooled"] < entropy["largest"] == pytest.approx(math.log(4))


def test_a_teacher_that_ignores_its_input_is_unsuitable():
    found = examine(Constant(4), pictures(0.7, 0.2))
    assert verdicts(found)["input-gradients"] == verdicts(found)["clean-accuracy"] == "failed"
    assert found.to_dict()["linearity"]["relative"] is None


def test_a_teacher_that_is_never_right_is_unsuitable_and_not_divided_by():
    images, labels = pictures(0.7, 0.2)
    found = examine(Stripes(0.8), (images, (labels + 1) % 4))
    assert found.to_dict()["ratio"] is None
    assert verdicts(found)["class-order"] == verdicts(found)["clean-accuracy"] == "failed"


def test_a_missing_normalisation_is_named():
    """The network wants (x - 0.5) / 0.5, but gets other pixels: 0.7 becomes 0.4, 0.2 becomes -0.6."""
    batch = pictures(0.7, 0.2)
    for model in (classifier(Stripes(0.1)), Stripes(0.1)):
        finding = preprocessing_finding(model, *batch)
        assert finding.verdict == "failed"
        assert finding.evidence["given"] < 0.3
        assert finding.evidence["tried"]["half normalisation in front"] == 1.0
    assert preprocessing_finding(classifier(Stripes(0.1), **HALF), *batch).verdict == "passed"


class Named(nn.Module):
    """The four classes and two more, in a dict."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        return {"logits": nn.functional.pad(self.network(images), (0, 2)), "images": images}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("of_images", [torch.float32, torch.float64])
def test_networks_of_another_type_and_with_named_outputs_are_examined(dtype, of_images):
    images, labels = pictures(0.7, 0.2)
    spec = ModelSpec("planted", num_classes=6, in_channels=1, image_size=8, classes=(0, 1, 2, 3), **HALF)
    model = Classifier(spec, Named(Stripes(0.1))).to(dtype)
    finding = preprocessing_finding(model, images.to(of_images), labels)
    assert finding.verdict == "passed"
    assert finding.evidence["tried"]["its own normalisation left out"] < 0.3


@pytest.mark.parametrize(("more", "verdict"), [(60, "failed"), (20, "warning"), (3, "passed")])
def test_a_slightly_better_normalisation_is_named(monkeypatch, more, verdict):
    """Of 1,000 images it is right on 700; another preprocessing on some more, never on fewer."""

    class Right(nn.Module):
        def __init__(self, count):
            super().__init__()
            self.count = count

        def forward(self, rows):
            return torch.nn.functional.one_hot((rows[:, 0, 0, 0] >= self.count).long(), 2).float()

    monkeypatch.setattr(preprocessing, "candidates", lambda *_: {"worse": Right(600), "cifar10": Right(700 + more)})
    finding = preprocessing_finding(Right(700), torch.arange(1000.0).view(-1, 1, 1, 1), torch.zeros(1000).long())
    assert finding.verdict == verdict
    assert "cifar10" in finding.message
    assert "70.0 %" in finding.message


def test_a_normalisation_too_many_is_named():
    """The network normalises by itself, the layer in front did so already: 0.5 becomes -1, 0.9 becomes 0.6."""
    batch = pictures(0.5, 0.9)
    inside = nn.Sequential(Normalize(NORMALIZATIONS["half"], 1), Stripes(0.0))
    finding = preprocessing_finding(classifier(inside, **HALF), *batch)
    assert (finding.verdict, finding.evidence["best_other"]) == ("failed", "its own normalisation left out")
    twice = nn.Sequential(Normalize(NORMALIZATIONS["half"], 1), inside)
    finding = preprocessing_finding(twice, *batch)
    assert finding.verdict == "failed"
    assert finding.evidence["tried"]["half normalisation undone in front"] == 1.0
    assert preprocessing_finding(inside, *batch).verdict == "passed"


def test_bytes_and_channel_order_are_tried():
    images, labels = pictures(0.7, 0.2)
    finding = preprocessing_finding(Stripes(51.0, 0.001), *pictures(0.2, 0.7))
    assert (finding.verdict, finding.evidence["tried"]["pixels from 0 to 255"]) == ("failed", 1.0)

    class First(Stripes):
        def forward(self, images):
            return super().forward(images[:, :1])

    colour = torch.cat([torch.rand_like(images), images * 0 + 0.5, images], 1)
    finding = preprocessing_finding(First(0.8), colour, labels)
    assert (finding.verdict, finding.evidence["best_other"]) == ("failed", "channels in reverse order")


def test_classes_in_another_order_are_named():
    _, labels = pictures(0.7, 0.2)
    finding = class_order_finding((labels + 1) % 4, labels, 4)
    assert finding.verdict == "failed"
    assert finding.evidence["moved"] == {"0": 3, "1": 0, "2": 1, "3": 2}
    assert class_order_finding(labels, labels, 4).verdict == "passed"


def test_a_guessing_model_is_not_given_another_order():
    with seeded(3):
        for _ in range(20):
            predictions, labels = torch.randint(0, 10, (2, 300))
            assert class_order_finding(predictions, labels, 10).verdict == "passed"


def test_the_best_order_moves_no_class_without_need():
    labels = torch.tensor([0, 0, 1, 1])
    assert best_order(torch.tensor([1, 1, 0, 0]), labels, 5).tolist() == [1, 0, 2, 3, 4]
    assert best_order(torch.tensor([0, 3, 1, 0]), torch.tensor([3, 3, 3, 3]), 4).tolist() == [3, 1, 2, 0]


def test_a_small_gain_or_one_by_chance_is_no_mistake():
    right = torch.arange(1000) < 900
    assert Alternative.compare("4 points", right, torch.arange(1000) < 940).is_better(1) is False
    assert Alternative.compare("5 points", right, torch.arange(1000) < 950).is_better(1) is True
    assert Alternative.compare("6 points", right, torch.arange(1000) < 960).is_better(1) is True
    few = Alternative.compare("5 of 20 images", torch.arange(20) < 10, torch.arange(20) < 15)
    assert few.p_value == pytest.approx(2**-5)
    assert few.is_better(1) is False
    seven = Alternative.compare("7 of 20", torch.arange(20) < 10, torch.arange(20) < 17)
    assert (seven.is_better(1), seven.is_better(2)) == (True, False)


def test_nonsense_is_refused():
    images, labels = pictures(0.7, 0.2, 8)
    with pytest.raises(InputError, match="the data was empty"):
        examine(Stripes(0.8), (images[:0], labels[:0]))
    with pytest.raises(InputError, match="not finite"):
        examine(Stripes(float("nan")), (images, labels))
    with pytest.raises(InputError, match="eps was 0"):
        examine(Stripes(0.8), (images, labels), eps=0.0)


def test_what_is_kept_is_not_done_again(tmp_path, monkeypatch):
    batch = pictures(0.7, 0.2, 8)
    first = examine(Stripes(0.8), batch, result_cache=ResultCache(tmp_path)).to_dict()
    monkeypatch.setattr(WorstCaseSearch, "largest", None)
    assert examine(Stripes(0.8), batch, result_cache=ResultCache(tmp_path)).to_dict() == first
