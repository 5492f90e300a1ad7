"""What is told of a model before it is used, and what stops a teacher."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import kdiga
from kdiga.analysis.preprocessing import preprocessing_finding, size_finding
from kdiga.data import DataSet, ImageSet
from kdiga.errors import InputError
from kdiga.model_state import seeded
from kdiga.models import Classifier, ModelSpec
from kdiga.models.classifier import WeightsOrigin
from kdiga.models.description import Description
from kdiga.recipes.schema import ModelConfig
from kdiga.recipes.validate import recipe_from_dict
from kdiga.workflows.inspect import check_teachers, inspect_model, inspect_recipe, sample
from kdiga.workflows.loaded_model import judged
from kdiga.workflows.prepare import RunModels, build_model, build_models, check_fits
from kdiga.workflows.requests import ModelRequest

TRAINED = WeightsOrigin("a test", trained=True)
WORDNET = ("n01440764", "n02102040", "n02979186", "n03000684")  # 0, 217, 482, 491


class Rows(nn.Module):
    """Tells the stripes' classes apart by rule: in which quarter of its height an image is bright.

    Bright is near 0.5 with mean and deviation 0.5; where nothing is, the preprocessing was another and it is wrong.

    Args:
        order: which output stands for which quarter.
        outputs: how many there are; those beyond ``order`` are low.
    """

    def __init__(self, order=(0, 1, 2, 3), outputs=4, channels=1):
        super().__init__()
        self.order, self.outputs = order, outputs
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x):
        height = x.shape[2] // 4
        quarters = torch.stack([x[:, :, i * height : (i + 1) * height].mean((1, 2, 3)) for i in range(4)], 1)
        distance = (quarters - 0.5).abs()
        scores = torch.where(distance.amin(1, keepdim=True) < 0.22, -distance, -distance.roll(1, 1))
        logits = x.new_full((len(x), self.outputs), -9.0)
        logits[:, list(self.order)] = scores * self.weight
        return logits


class OneSize(Rows):
    """Takes images of 16 pixels only."""

    def forward(self, x):
        if x.shape[2] != 16:
            raise RuntimeError(f"size {x.shape[2]}")
        return super().forward(x)


def classifier(network=None, *, mean=0.5, std=0.5, size=8, outputs=4, origin=TRAINED, **fit):
    spec = ModelSpec("cnn-4", outputs, 1, size, mean=(mean,), std=(std,), **fit)
    return Classifier(spec, network or Rows(), origin).eval()


@pytest.fixture
def data(stripes):
    return stripes


def verdicts(inspection):
    return {finding.name: finding.verdict for finding in inspection.findings}


def test_a_sound_model_passes(data):
    found = inspect_model(classifier(), data)
    assert set(verdicts(found).values()) == {"passed"}
    assert found.examples == 128
    assert "images: 1x8x8, as its network takes them" in found.lines()
    assert "normalisation: mean 0.5, std 0.5 (half)" in found.lines()
    assert found.to_dict()["examples"] == 128


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.75, 0.25)])
def test_normalised_not_at_all_or_twice_is_caught(mean, std, data):
    """Twice: x -> (2 x - 1) -> 2 (2 x - 1) - 1 = (x - 0.75) / 0.25."""
    found = inspect_model(classifier(mean=mean, std=std), data)
    assert verdicts(found)["preprocessing"] == "failed"
    (finding,) = [one for one in found.failed if one.name == "preprocessing"]
    assert "half" in finding.evidence["best_other"]
    assert any("preprocessing failed:" in line for line in found.lines())


def test_the_check_sees_past_a_resize_and_picked_classes(data):
    """Preprocessing is tried inside the resize and before the pick: an undone resize would not even run."""
    network = OneSize(order=(7, 2, 5, 0), outputs=9)
    other = {"outputs": 9, "size": 16, "input_size": 8, "classes": (7, 2, 5, 0)}
    sound = inspect_model(classifier(network, **other), data)
    assert not sound.failed
    found = preprocessing_finding(classifier(network, mean=0.75, std=0.25, **other), *sample(data, 128))
    assert found.verdict == "failed"
    assert found.evidence["given"] < 0.6
    assert found.evidence["other"] > 0.95


def test_another_order_of_the_classes_is_caught(data):
    assert verdicts(inspect_model(classifier(Rows(order=(1, 0, 3, 2))), data, examples=300))["class-order"] == "failed"


class Sized(nn.Module):
    """Right at one size only, whatever it is given otherwise."""

    def __init__(self, size):
        super().__init__()
        self.size, self.rows = size, Rows()

    def forward(self, x):
        logits = self.rows(x)
        return logits if x.shape[2] == self.size else logits.roll(1, 1)


@pytest.mark.parametrize(("own", "verdict"), [(8, "passed"), (16, "failed"), (32, "passed")])
def test_the_wrong_size_is_caught(own, verdict, data):
    """Half and twice the size are tried, and no other."""
    finding = size_finding(classifier(Sized(own)), *sample(data, 128))
    assert finding.verdict == verdict
    assert finding.evidence["size"] == 8
    if verdict == "failed":
        assert "image_size to its own, for example 16" in finding.message


def test_a_network_of_one_size_is_told():
    with seeded(1):
        model = kdiga.load_model("cnn-4", in_channels=1, image_size=8, num_classes=4)
    finding = size_finding(model, torch.rand(8, 1, 8, 8), torch.tensor([0, 1, 2, 3] * 2))
    assert finding.verdict == "skipped"


def test_fresh_weights_are_described_only(data):
    for origin in (WeightsOrigin(), replace(TRAINED, new_head=True)):
        found = inspect_model(classifier(origin=origin), data)
        assert (found.examples, found.findings) == (0, ())


def test_the_sample_is_the_same_and_spread(data):
    ordered = data.take(data.labels.argsort())
    images, labels = sample(ordered, 80)
    assert torch.equal(sample(ordered, 80)[0], images)
    assert len(labels.unique()) == 4
    with pytest.raises(InputError, match="examples was 0"):
        inspect_model(classifier(), data, examples=0)


def test_a_description_tells_what_is_done_to_images():
    model = classifier(Rows(outputs=1000), outputs=1000, size=16)
    fitted = model.fitted(channels=3, size=8, classes=tuple(range(20)))
    lines = Description(fitted).lines()
    assert "images: 3x8x8, resized and turned to grey for its network's 1x16x16" in lines
    assert "classes: 20 of the network's 1000 outputs: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, ..." in lines
    assert (
        "normalisation: none in front; the network gets pixels in [0, 1]"
        in Description(classifier(mean=0.0, std=1.0)).lines()
    )


# Recipes


@pytest.fixture
def recipe(tmp_path):
    kdiga.save_model(kdiga.load_model("cnn-4", in_channels=1, image_size=8, num_classes=4), tmp_path / "t.safetensors")
    return recipe_from_dict(
        {"data": "digits", "student": "cnn-4", "method": "kd", "teacher": str(tmp_path / "t.safetensors")}
    )


def test_a_teacher_that_fails_stops_training(recipe, data):
    models = RunModels(classifier(origin=WeightsOrigin()), classifier(mean=0.75, std=0.25), None)
    found = inspect_recipe(recipe, models, data)
    assert list(found) == ["student", "teacher"]
    with pytest.raises(InputError, match=r"the teacher cnn-4 failed a check\. .*preprocessing.*--despite-findings"):
        check_teachers(recipe, models, found)
    check_teachers(
        recipe,
        RunModels(models.student, classifier(), None),
        inspect_recipe(recipe, RunModels(models.student, classifier(), None), data),
    )
    # A student may be as bad as it likes.
    bad = RunModels(classifier(mean=0.75, std=0.25), classifier(), None)
    check_teachers(recipe, bad, inspect_recipe(recipe, bad, data))


def test_a_teacher_with_a_new_head_has_nothing_to_teach(recipe, data):
    models = RunModels(classifier(), classifier(origin=replace(TRAINED, new_head=True)), None)
    with pytest.raises(InputError, match="last layer is new and untrained"):
        check_teachers(recipe, models, inspect_recipe(recipe, models, data))


# Classes


@pytest.fixture
def photographs():
    """Four classes named by their WordNet ids."""
    with seeded(3):
        return ImageSet(torch.randint(0, 256, (8, 1, 8, 8), dtype=torch.uint8), torch.arange(8) % 4, WORDNET)


@pytest.fixture
def thousand(tmp_path):
    with seeded(2):
        model = kdiga.load_model("cnn-4", in_channels=1, image_size=8, num_classes=1000)
    kdiga.save_model(model, tmp_path / "t.safetensors")
    torch.save(model.network.state_dict(), tmp_path / "t.pt")
    return model, tmp_path


def test_a_network_of_imagenets_classes_serves_data_named_by_wordnet_ids(thousand, photographs):
    source, folder = thousand
    images = torch.rand(3, 1, 8, 8)
    expected = source(images)[:, [0, 217, 482, 491]]
    foreign = {"architecture": "cnn-4", "normalization": "none"}
    for config in (
        ModelConfig(str(folder / "t.safetensors")),
        ModelConfig(f"file:{folder / 't.pt'}", num_classes=1000, **foreign),
        ModelConfig(f"file:{folder / 't.pt'}", classes="imagenet", **foreign),
        ModelConfig(f"file:{folder / 't.pt'}", num_classes=1000, classes=[0, 217, 482, 491], **foreign),
    ):
        model = build_model(config, photographs)
        assert torch.equal(model(images), expected)
        check_fits("teacher", model, photographs)
    with pytest.raises(InputError, match="give classes: imagenet"):
        build_model(ModelConfig(f"file:{folder / 't.pt'}", **foreign), photographs)


def test_other_data_must_say_their_classes(thousand, stripes):
    _, folder = thousand
    model = build_model(ModelConfig(str(folder / "t.safetensors")), stripes)
    with pytest.raises(InputError, match="pick the data's classes among the network's by classes: imagenet"):
        check_fits("teacher", model, stripes)
    with pytest.raises(InputError, match="'a' is not a class of ImageNet-1k"):
        build_model(ModelConfig(str(folder / "t.safetensors"), classes="imagenet"), stripes)


def test_the_networks_own_size_resizes_the_images(photographs):
    model = build_model(ModelConfig("cnn-4", image_size=16), photographs)
    assert model.spec.takes == (1, 8, 4)
    assert model.spec.image_size == 16


def test_a_recipe_takes_it_all_and_loads_again(thousand):
    _, folder = thousand
    teacher = {
        "name": f"file:{folder / 't.pt'}",
        "architecture": "cnn-4",
        "normalization": "none",
        "matched": "order",
        "classes": [1, 2, 3, 4, 5, 6, 7, 8, 9, 0],
        "num_classes": 1000,
        "image_size": 8,
    }
    student = {"name": "timm:test_vit", "options": {"patch_size": 4}}
    recipe = recipe_from_dict({"data": "digits", "student": student, "method": "kd", "teacher": teacher})
    assert recipe_from_dict(recipe.to_dict()) == recipe
    with pytest.raises(InputError, match=r"teacher\.classes"):
        recipe_from_dict(
            {"data": "digits", "student": "cnn-4", "method": "kd", "teacher": teacher | {"classes": "all"}}
        )
    digits = ImageSet(torch.zeros(10, 1, 8, 8, dtype=torch.uint8), torch.arange(10), tuple("0123456789"))
    models = build_models(recipe, DataSet("digits", digits, digits, "a test"))
    assert models.teacher.spec.classes == (1, 2, 3, 4, 5, 6, 7, 8, 9, 0)
    assert models.student.network.patch_embed.num_patches == 4


def test_what_is_judged_has_weights():
    assert judged("timm:resnet18", ModelRequest()).pretrained
    assert not judged("timm:resnet18", ModelRequest(weights=Path("w.pt"))).pretrained
    with pytest.raises(InputError, match="fresh weights, so it was not trained"):
        judged("resnet20", ModelRequest())
    assert ModelConfig("torchvision:resnet18").is_fresh
    assert not ModelConfig("hf-hub:org/name").is_fresh
